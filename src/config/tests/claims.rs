//! Who has which domain and pixel.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::account::AccountId;
use crate::config::disk::{Disk, Files};
use crate::config::resolve::{self, Rules};
use crate::config::{Accounts, Claim, GatewayConfig, Holders, Owners, Settled, settle};

fn id(text: &str) -> AccountId {
    text.parse().unwrap()
}

fn gateway() -> Arc<GatewayConfig> {
    Folder::new().read().gateway.unwrap()
}

/// An account with these domains (`a` is a.example) and pixels.
fn config(account: &str, domains: &[&str], pixels: &[u64]) -> Arc<AccountConfig> {
    let domains: Vec<_> = domains.iter().map(|domain| format!("{domain}.example")).collect();
    let pixels: String = pixels
        .iter()
        .map(|pixel| format!("[[pixels]]\nid = \"{pixel}\"\naccess_token = {{ env = \"NONE\" }}\n"))
        .collect();
    let text = format!("domains = {domains:?}\n{pixels}");
    let file = PathBuf::from(format!("accounts/{account}.toml"));
    let surroundings = Surroundings::default();
    let (config, problems) = resolve::account(
        &id(account),
        &file,
        text.as_bytes(),
        Rules::LENIENT,
        &surroundings,
        &mut Files::new(&Disk::new()),
    );
    Arc::new(config.unwrap_or_else(|| panic!("{problems:#?}")))
}

/// What is settled, in short: `account: domains pixels`, and the problems as `account key: reason`.
fn settled(
    candidates: &[(&str, Candidate)],
    owners: &[Arc<AccountConfig>],
    refused: &[&str],
) -> (Vec<String>, Vec<String>) {
    let settled = settle(
        &gateway(),
        &candidates.iter().map(|(account, candidate)| (id(account), candidate.clone())).collect(),
        &accounts(owners),
        &refused.iter().map(|account| id(account)).collect(),
    );
    let in_short = |config: &Arc<AccountConfig>| {
        let domains = config.domains.iter().map(|domain| domain.as_str().replace(".example", ""));
        let claims: Vec<_> = domains.chain(config.pixels.iter().map(|pixel| pixel.id.to_string())).collect();
        format!("{}: {}", config.id, claims.join(" "))
    };
    let problem = |problem: &Problem| {
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line} {}: {}", problem.file.display(), problem.key, problem.reason)
    };
    (settled.accounts.values().map(in_short).collect(), settled.problems.iter().map(problem).collect())
}

fn accounts(configs: &[Arc<AccountConfig>]) -> Accounts {
    configs.iter().map(|config| (config.id.clone(), config.clone())).collect()
}

fn written(account: &'static str, domains: &[&str], pixels: &[u64]) -> (&'static str, Candidate) {
    (account, Candidate::Good(config(account, domains, pixels)))
}

#[test]
fn claims_of_different_accounts_go_through() {
    let candidates = [written("a", &["x"], &[1]), written("b", &["y"], &[2]), ("c", Candidate::Bad)];
    let (accounts, problems) = settled(&candidates, &[], &[]);
    assert_eq!((accounts, problems), (vec!["a: x 1".to_owned(), "b: y 2".to_owned()], vec![]));
}

#[test]
fn the_present_owner_keeps_what_it_has_and_the_other_file_is_refused_whole() {
    let owners = [config("b", &["x"], &[]), config("a", &["y"], &[1])];
    let candidates = [written("a", &["x", "z"], &[1]), written("b", &["w", "x"], &[])];
    let (accounts, problems) = settled(&candidates, &owners, &[]);
    assert_eq!(accounts, ["a: y 1", "b: w x"]);
    let expected =
        "accounts/a.toml:1 domains[0]: x.example is also domains[1] of accounts/b.toml:1; account b has it now";
    assert_eq!(problems, [expected]);
}

#[test]
fn what_nobody_has_goes_to_nobody() {
    let candidates = [written("a", &["x"], &[1]), written("b", &["y"], &[2, 1]), written("c", &["z"], &[])];
    let (accounts, problems) = settled(&candidates, &[], &[]);
    assert_eq!(accounts, ["c: z"]);
    assert_eq!(
        problems,
        [
            "accounts/a.toml:3 pixels[0].id: pixel 1 is also pixels[1].id of accounts/b.toml:6; nobody has it yet",
            "accounts/b.toml:6 pixels[1].id: pixel 1 is also pixels[0].id of accounts/a.toml:3; nobody has it yet",
        ]
    );
}

#[test]
fn it_is_said_what_becomes_of_the_account_until_then() {
    let candidates: BTreeMap<_, _> =
        [written("a", &["x"], &[]), written("b", &["x"], &[]), written("c", &["x", "w"], &[])]
            .map(|(account, candidate)| (id(account), candidate))
            .into();
    let owners = accounts(&[config("b", &["x"], &[]), config("c", &["w"], &[])]);
    let problems = settle(&gateway(), &candidates, &owners, &BTreeSet::new()).problems;
    let remedies: Vec<_> = problems.iter().map(|problem| problem.remedy.as_str()).collect();
    let expected = ["is not served", "stays as it was"]
        .map(|becomes| format!("remove it from one of the two files; until then this account {becomes}"));
    assert_eq!(remedies, expected, "a is new, c is not");
}

#[test]
fn what_one_gives_up_another_may_take_at_once() {
    let owners = [config("a", &["x"], &[1]), config("b", &["y"], &[2])];
    let candidates = [written("a", &["y"], &[2]), written("b", &["x"], &[1])];
    let (accounts, problems) = settled(&candidates, &owners, &[]);
    assert_eq!((accounts, problems), (vec!["a: y 2".to_owned(), "b: x 1".to_owned()], vec![]));
}

#[test]
fn what_a_bad_file_gives_up_it_keeps() {
    let owners = [config("a", &["x"], &[1])];
    for (candidate, refused) in [(("a", Candidate::Bad), vec![]), (written("a", &["y"], &[]), vec!["a"])] {
        let (accounts, problems) = settled(&[candidate, written("b", &["x"], &[])], &owners, &refused);
        assert_eq!(accounts, ["a: x 1"]);
        let expected = "accounts/b.toml:1 domains[0]: x.example is also domains[0] of accounts/a.toml as it was before; account a has it now";
        assert_eq!(problems, [expected]);
    }
}

#[test]
fn one_refusal_may_bring_about_the_next() {
    // a wants y of b, so a keeps x; c took x, so c keeps z; d took z.
    let owners = [config("a", &["x"], &[]), config("b", &["y"], &[]), config("c", &["z"], &[])];
    let candidates =
        [written("a", &["y"], &[]), written("b", &["y"], &[]), written("c", &["x"], &[]), written("d", &["z"], &[])];
    let (accounts, problems) = settled(&candidates, &owners, &[]);
    assert_eq!(accounts, ["a: x", "b: y", "c: z"]);
    assert_eq!(problems.len(), 3);
}

#[test]
fn a_claim_of_a_refused_file_stands_in_nobodys_way() {
    // a loses x to b, so its claim on w is none, and c gets it.
    let owners = [config("b", &["x"], &[])];
    let candidates = [written("a", &["w", "x"], &[]), written("b", &["x"], &[]), written("c", &["w"], &[])];
    assert_eq!(settled(&candidates, &owners, &[]).0, ["b: x", "c: w"]);
}

#[test]
fn an_account_without_a_file_has_nothing() {
    let owners = [config("gone", &["x"], &[1])];
    assert_eq!(settled(&[written("a", &["x"], &[1])], &owners, &[]).0, ["a: x 1"]);
}

#[test]
fn the_hosts_domain_is_no_accounts() {
    let candidates = [written("a", &["gw.agency"], &[1]), written("b", &["y"], &[])];
    let (accounts, problems) = settled(&candidates, &[], &[]);
    assert_eq!(accounts, ["b: y"]);
    assert!(
        problems[0].starts_with("accounts/a.toml:1 domains[0]: gw.agency.example is host.domain of "),
        "{problems:?}"
    );
}

#[test]
fn a_host_that_takes_an_accounts_domain_is_the_one_to_blame() {
    let owners = [config("a", &["gw.agency"], &[1])];
    let (accounts, problems) = settled(&[written("a", &["gw.agency"], &[1])], &owners, &[]);
    assert_eq!(accounts, ["a: gw.agency 1"]);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains(
            "pixelgate.toml host.domain: gw.agency.example is domains[0] of accounts/a.toml:1, which has it now"
        ),
        "{problems:?}"
    );
}

#[test]
fn owners_that_contradict_each_other_do_not_end_in_two_owners() {
    // As a crash may leave it: both were kept with x. The one whose file says so has it.
    let owners = [config("a", &["x"], &[]), config("b", &["x"], &[])];
    assert_eq!(settled(&[("a", Candidate::Bad), written("b", &["x"], &[])], &owners, &[]).0, ["b: x"]);
    assert_eq!(settled(&[("a", Candidate::Bad), ("b", Candidate::Bad)], &owners, &[]).0, [""; 0]);
}

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// An account's claims: domains and pixels out of few, so that they collide.
fn claims() -> impl Strategy<Value = (BTreeSet<usize>, BTreeSet<u64>)> {
    (prop::collection::btree_set(0..6usize, 0..3), prop::collection::btree_set(1..5u64, 0..3))
}

/// Owners of which it can be looked up who has what.
struct LookedUp(Accounts);

impl Owners for LookedUp {
    fn account(&self, id: &AccountId) -> Option<&Arc<AccountConfig>> {
        self.0.get(id)
    }

    fn holders(&self) -> Option<&dyn Holders> {
        Some(self)
    }
}

impl Holders for LookedUp {
    fn holder(&self, claim: Claim<'_>) -> Option<&AccountId> {
        let has = |account: &AccountConfig| match claim {
            Claim::Domain(name) => account.domains.contains(name),
            Claim::Pixel(id) => account.pixels.iter().any(|pixel| pixel.id == id),
        };
        self.0.iter().find_map(|(id, account)| has(account).then_some(id))
    }
}

fn made(account: &str, (domains, pixels): &(BTreeSet<usize>, BTreeSet<u64>)) -> Arc<AccountConfig> {
    let names: Vec<_> = domains.iter().map(|domain| ["p", "q", "r", "s", "t", "u"][*domain]).collect();
    config(account, &names, &pixels.iter().copied().collect::<Vec<_>>())
}

/// Whether no domain and no pixel is in two accounts.
fn unique(accounts: &Accounts) -> bool {
    let domains: Vec<_> = accounts.values().flat_map(|account| &account.domains).collect();
    let pixels: Vec<_> = accounts.values().flat_map(|account| account.pixels.iter().map(|pixel| pixel.id)).collect();
    domains.iter().collect::<BTreeSet<_>>().len() == domains.len()
        && pixels.iter().collect::<BTreeSet<_>>().len() == pixels.len()
}

/// The same accounts under other names.
fn renamed(
    accounts: &BTreeMap<AccountId, Candidate>,
    names: &BTreeMap<AccountId, &str>,
) -> BTreeMap<AccountId, Candidate> {
    let rename = |(old, candidate): (&AccountId, &Candidate)| {
        let candidate = match candidate {
            Candidate::Good(config) => Candidate::Good(under(config, names[old])),
            Candidate::Bad => Candidate::Bad,
        };
        (id(names[old]), candidate)
    };
    accounts.iter().map(rename).collect()
}

fn under(config: &AccountConfig, name: &str) -> Arc<AccountConfig> {
    Arc::new(AccountConfig { id: id(name), ..config.clone() })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn claims_are_settled_fairly(
        before in prop::collection::vec(prop::option::of(claims()), IDS.len()),
        files in prop::collection::vec(prop::option::weighted(0.9, prop::option::weighted(0.8, claims())), IDS.len()),
        keep in prop::collection::vec(any::<bool>(), IDS.len()),
    ) {
        let gateway = gateway();
        // Owners as a settlement before left them.
        let first: BTreeMap<_, _> = IDS.iter().zip(&before)
            .filter_map(|(name, claims)| Some((id(name), Candidate::Good(made(name, claims.as_ref()?)))))
            .collect();
        let owners = settle(&gateway, &first, &Accounts::new(), &BTreeSet::new()).accounts;
        prop_assert!(unique(&owners));

        let candidate = |(index, name): (usize, &&str)| {
            let owner = owners.get(&id(name)).filter(|_| keep[index]);
            let candidate = match (owner, files[index].as_ref()?) {
                (Some(owner), _) => Candidate::Good(owner.clone()),
                (None, Some(claims)) => Candidate::Good(made(name, claims)),
                (None, None) => Candidate::Bad,
            };
            Some((id(name), candidate))
        };
        let candidates: BTreeMap<_, _> = IDS.iter().enumerate().filter_map(candidate).collect();
        let Settled { accounts, problems } = settle(&gateway, &candidates, &owners, &BTreeSet::new());

        prop_assert!(unique(&accounts));
        for (account, candidate) in &candidates {
            let (now, owner) = (accounts.get(account), owners.get(account));
            // Each is as written, or as before, or absent if there is no before.
            let as_written = matches!((candidate, now), (Candidate::Good(config), Some(now)) if Arc::ptr_eq(config, now));
            prop_assert!(as_written || now == owner);
            // Nobody who changes nothing loses.
            if let (Candidate::Good(config), Some(owner)) = (candidate, owner) && Arc::ptr_eq(config, owner) {
                prop_assert!(as_written);
            }
            // Nobody is refused in silence, and nobody is told off who was not refused.
            let told = problems.iter().any(|problem| problem.account.as_ref() == Some(account));
            prop_assert_eq!(told, matches!(candidate, Candidate::Good(_)) && !as_written);
        }

        // Looking up who has what comes to the same as comparing all with all.
        let looked_up = settle(&gateway, &candidates, &LookedUp(owners.clone()), &BTreeSet::new());
        prop_assert_eq!(&looked_up.accounts, &accounts);
        prop_assert_eq!(&looked_up.problems, &problems);

        // Other names, and so another order, change nothing.
        let names: BTreeMap<_, _> = IDS.iter().zip(["z", "m", "k", "b", "a"]).map(|(old, new)| (id(old), new)).collect();
        let other_owners: Accounts = owners.iter().map(|(old, config)| (id(names[old]), under(config, names[old]))).collect();
        let other = settle(&gateway, &renamed(&candidates, &names), &other_owners, &BTreeSet::new());
        let expected: Accounts = accounts.iter().map(|(old, config)| (id(names[old]), under(config, names[old]))).collect();
        prop_assert_eq!(other.accounts, expected);
    }
}
