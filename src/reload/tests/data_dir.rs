//! A reload that finds another data directory.

use super::*;

#[test]
fn another_data_directory_is_told_and_what_lies_in_the_present_one_is_served_on() {
    let site = Site::new();
    site.write_account("shoes", &[NAME], &[7]);
    Issued::valid(&[NAME], 2020, 2030).write(&site.path("data/certs").join(NAME), "live");
    let reloader = site.start();
    assert_eq!(served_until(&reloader, NAME), Some(2030));
    // Everything that is read at the start only.
    let elsewhere = "[host]\ndomain = \"gw.agency.example\"\ndata_dir = \"elsewhere\"\ncontrol = \"socket\"\nwatch = true\n\
                     [listen]\nhttps = [\"127.0.0.1:8\"]\nhttp = []\nops = \"127.0.0.1:9\"\n\
                     [outbox]\ndead_letters_max = 5\n[filters]\nwait_max = \"7ms\"\n\
                     [delivery]\nrequests_in_flight_per_lane_max = 2\n[limits]\naccount_backlog_bytes_max = 2_000_000\n\
                     [log]\nlevel = \"debug\"\n";
    site.write("pixelgate.toml", elsewhere);
    let (checked, report) = (reloader.check(NOW_MS), reloader.reload(|| NOW_MS));
    for report in [checked, report] {
        let told: Vec<_> =
            report.problems.iter().filter(|problem| problem.reason.contains("at the start only")).collect();
        let keys: Vec<_> = told.iter().map(|problem| problem.key.as_str()).collect();
        let expected = "delivery.requests_in_flight_per_lane_max filters host.control host.data_dir host.watch \
                        limits.account_backlog_bytes_max listen.http listen.https listen.ops log outbox";
        assert_eq!(keys.join(" "), expected);
        assert!(report.problems.iter().all(|problem| problem.key != NAME), "{:?}", report.problems);
    }
    assert_eq!(served_until(&reloader, NAME), Some(2030));
    let (running, started) = (reloader.published().load(), &reloader.started);
    assert_eq!(restart_needed(started, &running.gateway), []);
    assert_eq!(running.gateway.host.data_dir, site.path("data"));
}
