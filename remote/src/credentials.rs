//! Credentials for registries, from where other tools keep them: `DOCKER_AUTH_CONFIG`, which
//! holds a configuration, or else the file `config.json` in `DOCKER_CONFIG` or `~/.docker`, which may name helpers.
//!
//! A registry gets what is kept for its own name, and nothing else. Object stores find theirs
//! in their own variables.

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;

/// What holds a configuration itself.
const CONFIG: &str = "DOCKER_AUTH_CONFIG";

/// Credentials, and in words where they come from.
pub(crate) struct Credentials {
    pub(crate) auth: RegistryAuth,
    pub(crate) looked: String,
}

/// Looks for what is kept for a registry.
pub(crate) fn find(registry: &str) -> Credentials {
    // What the common registry is called in configurations.
    let server = match registry {
        "docker.io" | "index.docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let (place, found) = match std::env::var(CONFIG) {
        Ok(config) if !config.is_empty() => (
            format!("the variable {CONFIG}"),
            docker_credential::get_credential_from_reader(config.as_bytes(), server),
        ),
        _ => (
            "config.json in DOCKER_CONFIG or ~/.docker".to_owned(),
            docker_credential::get_credential(server),
        ),
    };
    let (auth, result) = match found {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            (RegistryAuth::Basic(user, password), "those in it were used".to_owned())
        }
        Ok(DockerCredential::IdentityToken(token)) => {
            (RegistryAuth::Bearer(token), "the token in it was used".to_owned())
        }
        Err(error) => (RegistryAuth::Anonymous, reason(&error)),
    };
    let looked = format!("credentials for {registry} were looked for in {place}, and {result}");
    Credentials { auth, looked }
}

/// Why there are none. What a helper printed is not repeated.
fn reason(error: &CredentialRetrievalError) -> String {
    match error {
        CredentialRetrievalError::ConfigNotFound => "there is no such file".to_owned(),
        CredentialRetrievalError::NoCredentialConfigured => {
            "there are none for it: log in, for example with `docker login`".to_owned()
        }
        CredentialRetrievalError::ConfigReadError => "it cannot be read".to_owned(),
        CredentialRetrievalError::HelperFailure { helper, .. } => {
            format!("the helper {helper} that it names failed")
        }
        _ => "what is there cannot be used".to_owned(),
    }
}
