//! Keys and signatures on the command line: what works, and what each misuse is told.

mod command;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use command::Folder;

const MODULE: &str = r#"(module (func (export "f") (result i32) (i32.const 7)))"#;

/// A folder with an artifact, and its digest.
fn folder() -> (Folder, String) {
    let folder = Folder::new();
    let digest = folder.write("in.wat", MODULE).compile("in.wat");
    (folder, digest)
}

/// Makes a key; returns its id.
fn keygen(folder: &Folder, name: &str) -> String {
    let ended = folder.cwasm(&format!("keygen -o {name}"));
    let (id, path) = ended.stdout.trim().split_once("  ").unwrap();
    assert_eq!((ended.code, path), (0, format!("{name}.pub").as_str()), "{ended:?}");
    assert_eq!(id.len(), 32);
    id.to_owned()
}

fn mode(folder: &Folder, name: &str) -> u32 {
    fs::metadata(folder.path(name)).unwrap().permissions().mode() & 0o777
}

fn set_mode(folder: &Folder, name: &str, mode: u32) {
    fs::set_permissions(folder.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_a_key_signed_is_verified_and_run_by_its_public_key() {
    let (folder, digest) = folder();
    let id = keygen(&folder, "a.key");
    folder.cwasm("sign in.cwasm --key a.key").printed(&format!("{digest} signed by {id}\n"));
    folder
        .cwasm("verify in.cwasm --key a.key.pub")
        .printed(&format!("ok {digest}\nsigned by {id}\n"));
    folder.cwasm("run in.cwasm --key a.key.pub --invoke f").printed("7\n");
    // A signature is an addition: what was true before still is.
    folder.cwasm(&format!("run in.cwasm --digest {digest} --invoke f")).printed("7\n");
    folder.cwasm(&format!("verify in.cwasm --digest {digest}")).printed(&format!("ok {digest}\n"));
    folder.cwasm("verify in.cwasm --against in.wat").printed(&format!("ok {digest}\n"));
    let both = folder.cwasm("verify in.cwasm --against in.wat --key a.key.pub");
    both.printed(&format!("ok {digest}\nsigned by {id}\n"));
    assert_eq!(folder.names(), ["a.key", "a.key.pub", "in.cwasm", "in.wat"]);
}

#[test]
fn keys_are_rotated_without_a_gap() {
    let (folder, digest) = folder();
    let (old, new) = (keygen(&folder, "old"), keygen(&folder, "new"));
    folder.cwasm("sign in.cwasm --key old");
    let signed_once = folder.read("in.cwasm");
    let ended = folder.cwasm("sign in.cwasm --key new");
    assert!(ended.stdout.contains(&old) && ended.stdout.contains(&new), "{ended:?}");
    for key in ["old", "new"] {
        folder.cwasm(&format!("run in.cwasm --key {key}.pub --invoke f")).printed("7\n");
    }
    // Applications that trust both say which of them signed.
    let ended = folder.cwasm("verify in.cwasm --key old.pub --key new.pub");
    ended.printed(&format!("ok {digest}\nsigned by {old}\nsigned by {new}\n"));
    folder
        .cwasm(&format!("sign in.cwasm --remove {old}"))
        .printed(&format!("{digest} signed by {new}\n"));
    folder.cwasm("verify in.cwasm --key old.pub").refused("in.cwasm is refused: untrusted: ");
    // Back again, in one step.
    folder.cwasm(&format!("sign in.cwasm --key old --remove {new}"));
    assert!(folder.read("in.cwasm") == signed_once);
    folder
        .cwasm(&format!("sign in.cwasm --remove {old}"))
        .printed(&format!("{digest} signed by nobody\n"));
}

#[test]
fn signing_replaces_the_file_in_one_step_and_keeps_its_permissions() {
    let (folder, _) = folder();
    keygen(&folder, "a.key");
    set_mode(&folder, "in.cwasm", 0o750);
    let before = fs::metadata(folder.path("in.cwasm")).unwrap().ino();
    let open = fs::File::open(folder.path("in.cwasm")).unwrap();
    folder.cwasm("sign in.cwasm --key a.key");
    let after = fs::metadata(folder.path("in.cwasm")).unwrap().ino();
    assert_ne!(before, after, "who has the old file open keeps the old file");
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    assert_eq!(mode(&folder, "in.cwasm"), 0o750);
    // To sign again changes nothing, and so writes nothing.
    assert_eq!(folder.cwasm("sign in.cwasm --key a.key").code, 0);
    assert_eq!(fs::metadata(folder.path("in.cwasm")).unwrap().ino(), after);
}

#[test]
fn the_secret_key_is_for_its_owner_alone_and_never_overwritten() {
    let folder = Folder::new();
    keygen(&folder, "a.key");
    assert_eq!(mode(&folder, "a.key"), 0o600);
    let secret = folder.read("a.key");
    let public = folder.read("a.key.pub");
    assert!(secret.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
    assert!(public.starts_with(b"-----BEGIN PUBLIC KEY-----\n"));
    folder.cwasm("keygen -o a.key").refused("a.key exists already, and keys are never overwritten");
    folder.write("b.key.pub", "mine");
    folder.cwasm("keygen -o b.key").refused("b.key.pub exists already");
    folder.cwasm("keygen -o no/such/key").refused("cannot write no/such/key: No such file");
    assert_eq!(folder.names(), ["a.key", "a.key.pub", "b.key.pub"], "no half of a pair is left");
    assert_eq!((folder.read("a.key"), folder.read("a.key.pub")), (secret, public));
    folder.cwasm("keygen");
    assert_eq!(folder.names()[3..], ["cwasm.key", "cwasm.key.pub"]);
    assert_ne!(folder.read("cwasm.key"), folder.read("a.key"));
}

#[test]
fn keys_of_openssl_work_and_ours_work_there() {
    let (folder, _) = folder();
    // The pair in RFC 8410, section 10, which is as `openssl genpkey` writes them.
    folder.write(
        "ssl.pem",
        "-----BEGIN PRIVATE KEY-----\n\
         MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
         -----END PRIVATE KEY-----\n",
    );
    set_mode(&folder, "ssl.pem", 0o600);
    folder.write(
        "ssl.pub",
        "-----BEGIN PUBLIC KEY-----\n\
         MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
         -----END PUBLIC KEY-----\n",
    );
    assert_eq!(folder.cwasm("sign in.cwasm --key ssl.pem").code, 0);
    folder.cwasm("run in.cwasm --key ssl.pub --invoke f").printed("7\n");
    // A public key may be given in hexadecimal, too.
    folder.write("hex", "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1\n");
    folder.cwasm("run in.cwasm --key hex --invoke f").printed("7\n");
    keygen(&folder, "a.key");
    let derived = std::process::Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(folder.path("a.key"))
        .output();
    match derived {
        Err(error) => println!("not tested: openssl cannot be run: {error}"),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.stdout, folder.read("a.key.pub"), "{errors}");
        }
    }
}

#[test]
fn inspect_shows_signatures_without_vouching_for_them() {
    let (folder, _) = folder();
    assert!(folder.cwasm("inspect in.cwasm").stdout.contains("signed by  nobody\n"));
    let id = keygen(&folder, "a.key");
    folder.cwasm("sign in.cwasm --key a.key");
    let text = folder.cwasm("inspect in.cwasm").stdout;
    assert!(text.contains(&format!("signed by  {id} (not verified")), "{text}");
    let json = folder.cwasm("inspect --json in.cwasm").stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["signatures"], serde_json::json!([{"kind": "ed25519", "key": id}]));
}

#[test]
fn what_is_wrong_with_signatures_is_told_apart() {
    let (folder, digest) = folder();
    let (a, b) = (keygen(&folder, "a"), keygen(&folder, "b"));
    let refused = |file: &str, wanted: &str| {
        folder
            .cwasm(&format!("verify {file} --key a.pub"))
            .refused(&format!("{file} is refused: {wanted}"));
        let ended = folder.cwasm(&format!("run {file} --key a.pub --invoke f"));
        ended.refused(&format!("cannot load {file}: {wanted}"));
    };
    refused(
        "in.cwasm",
        &format!("unsigned: a signature by the key {a} was asked for; get the signed"),
    );
    folder.write("b.cwasm", folder.read("in.cwasm")).cwasm("sign b.cwasm --key b");
    refused(
        "b.cwasm",
        &format!("untrusted: it is signed by the key {b}, and a signature by the key {a}"),
    );
    // The signature of another artifact.
    folder.write("other.wat", "(module)").compile("other.wat");
    folder.cwasm("sign other.cwasm --key a");
    let mut swapped = folder.read("in.cwasm");
    swapped[832..832 + 512].copy_from_slice(&folder.read("other.cwasm")[832..832 + 512]);
    folder.write("swapped.cwasm", &swapped);
    refused(
        "swapped.cwasm",
        &format!("bad signature: the one by the key {a} is not of this artifact"),
    );
    folder.cwasm(&format!("run swapped.cwasm --digest {digest} --invoke f")).printed("7\n");
    // Damage.
    folder.cwasm("sign in.cwasm --key a");
    let good = folder.read("in.cwasm");
    for (place, wanted) in [(900, "corrupt: the signature area"), (4200, "corrupt: bytes 0x")] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        folder.write("bad.cwasm", &bad);
        refused("bad.cwasm", wanted);
        folder.cwasm("sign bad.cwasm --key a").refused(&format!("cannot sign bad.cwasm: {wanted}"));
        assert!(folder.read("bad.cwasm") == bad);
    }
}

#[test]
fn what_is_no_key_is_refused_by_what_it_is() {
    let (folder, _) = folder();
    keygen(&folder, "a.key");
    let before = folder.read("in.cwasm");
    let sign = |key: &str, wanted: &str| {
        folder.cwasm(&format!("sign in.cwasm --key {key}")).refused(wanted);
    };
    sign("a.key.pub", "a.key.pub is a public key, which cannot sign");
    sign("in.wat", "in.wat is not a secret key, which is a PEM file");
    sign("in.cwasm", "in.cwasm is not a key, which is a short PEM file");
    sign("absent", "cannot read absent: No such file");
    sign(".", ". is a directory, not a file");
    let pem = String::from_utf8(folder.read("a.key")).unwrap();
    let secret = |name: &str, text: &str| {
        folder.write(name, text);
        set_mode(&folder, name, 0o600);
    };
    secret("locked", &pem.replace("PRIVATE", "ENCRYPTED PRIVATE"));
    sign("locked", "locked is encrypted: decrypt it with `openssl pkey -in locked`");
    secret("cut", &pem.replace("-----END", "----END"));
    sign("cut", "cut is damaged, or not a secret key for ed25519");
    secret("rsa", &pem.replace("BQYDK2Vw", "BQYDK2Vx"));
    sign("rsa", "rsa is damaged, or not a secret key for ed25519");
    let verify = |key: &str, wanted: &str| {
        for command in ["verify", "run"] {
            folder.cwasm(&format!("{command} in.cwasm --key {key}")).refused(wanted);
        }
    };
    verify("a.key", "a.key: this is a secret key: keep it to yourself, and give the public key");
    verify("in.wat", "in.wat: a public key is a PEM file");
    verify("absent", "cannot read absent: No such file");
    // Everybody can sign with this one.
    folder.write("weak", "00".repeat(32));
    verify("weak", "weak: this is no ed25519 public key that is safe to use");
    assert!(folder.read("in.cwasm") == before, "nothing was signed");
}

#[test]
fn a_secret_key_that_others_can_read_is_used_with_a_warning() {
    let (folder, _) = folder();
    keygen(&folder, "a.key");
    set_mode(&folder, "a.key", 0o644);
    let ended = folder.cwasm("sign in.cwasm --key a.key");
    assert_eq!(ended.code, 0);
    assert_eq!(
        ended.stderr,
        "cwasm: warning: others can use the secret key a.key (mode 0644): `chmod 600` it\n"
    );
    // From standard input, there is nothing to warn of.
    let pem = String::from_utf8(folder.read("a.key")).unwrap();
    let ended = folder.cwasm_with(&["sign", "in.cwasm", "--key", "-"], &pem);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn more_is_wrong_with_the_arguments_of_sign() {
    let (folder, _) = folder();
    let id = keygen(&folder, "a.key");
    folder
        .cwasm(&format!("sign in.cwasm --remove {id}"))
        .refused(&format!("in.cwasm is not signed by the key {id}; it is signed by nobody"));
    folder
        .cwasm("sign in.wat --key a.key")
        .refused("cannot sign in.wat: not a cwasm artifact: it is text");
    folder.cwasm("sign absent --key a.key").refused("cannot read absent: No such file");
    for number in 0..5 {
        keygen(&folder, &format!("{number}.key"));
        assert_eq!(folder.cwasm(&format!("sign in.cwasm --key {number}.key")).code, 0);
    }
    folder
        .cwasm("sign in.cwasm --key a.key")
        .refused("cannot sign in.cwasm: an artifact has room for 5 signatures");
    folder
        .cwasm("run in.wat --key a.key.pub --invoke f")
        .refused("no artifact was given for `--key` to check");
    let digest = "0".repeat(64);
    for usage in [
        "sign in.cwasm",
        "sign in.cwasm --remove 12",
        "sign --key a.key",
        "run in.cwasm --key a.key.pub --trust-file",
        &format!("verify in.cwasm --key a.key.pub --digest {digest}"),
    ] {
        assert_eq!(folder.cwasm(usage).code, 2, "{usage}");
    }
}

#[test]
fn what_is_preloaded_may_be_signed_or_pinned() {
    let folder = Folder::new();
    folder.write("lib.wat", r#"(module (func (export "one") (result i32) (i32.const 1)))"#);
    folder.write(
        "app.wat",
        r#"(module (import "lib" "one" (func $one (result i32)))
            (func (export "two") (result i32) (i32.add (call $one) (call $one))))"#,
    );
    let digest = folder.compile("lib.wat");
    folder.compile("app.wat");
    keygen(&folder, "a.key");
    folder.cwasm("sign app.cwasm --key a.key");
    let run = "run app.cwasm --key a.key.pub --preload lib=lib.cwasm --invoke two";
    folder.cwasm(run).refused("cannot load lib.cwasm: unsigned: ");
    folder.cwasm(&run.replace("--key", &format!("--digest {digest} --key"))).printed("2\n");
    folder.cwasm("sign lib.cwasm --key a.key");
    folder.cwasm(run).printed("2\n");
}
