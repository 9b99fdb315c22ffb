//! `pixelgate filter`: for the authors of filters; needs no gateway.

mod build;
mod test;

use clap::Subcommand;

use super::{Ended, GatewayArgs};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a component: of a crate, or of a core module that was built already
    Build(build::Args),
    /// Run a component or script on one event, with the limits of the gateway
    Test(test::Args),
}

pub(super) fn run(gateway: &GatewayArgs, command: Command) -> anyhow::Result<Ended> {
    match command {
        Command::Build(args) => build::run(args),
        Command::Test(args) => test::run(gateway, args),
    }
}
