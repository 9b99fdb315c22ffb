//! Any bytes as a file of the configuration: they are refused or taken, and every problem can be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pixelgate::config;

fuzz_target!(|bytes: &[u8]| {
    for problem in config::judge(bytes) {
        assert!(!problem.reason.is_empty() && !problem.remedy.is_empty(), "{problem}");
    }
});
