//! `pixelgate run`

use std::path::PathBuf;

use super::reload::counted;
use super::{Ended, GatewayArgs, tell};
use crate::server::{self, RunError, RunOptions};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Write the addresses listened on, the process id and the revision to this file once everything accepts
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

pub(super) fn run(gateway: &GatewayArgs, args: Args) -> anyhow::Result<Ended> {
    let options = RunOptions { config_dir: gateway.config.clone(), ready_file: args.ready_file };
    match server::run(&options) {
        Ok(()) => Ok(Ended::Fine),
        Err(RunError::Configuration(problems)) => {
            problems.iter().for_each(tell);
            tell(format_args!("pixelgate: did not start: {} in the configuration", counted(&problems)));
            Ok(Ended::Bad)
        }
        Err(error) => Err(error.into()),
    }
}
