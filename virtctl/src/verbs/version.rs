//! `virtctl version`.

use api::subresources::{VersionInfo, group_path, version_path};
use http::Request;
use kube::Client;
use kube::core::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::{ConnectionFlags, VersionArgs, VersionForm};
use crate::connection::Connection;
use crate::error::Error;

/// What is printed, under kubectl's names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client_version: VersionInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_version: Option<VersionInfo>,
}

/// Prints this program's version, and that of the controller behind the API server.
///
/// # Errors
/// The server cannot be asked. This program's version is printed all the same.
pub(crate) async fn run(flags: &ConnectionFlags, args: &VersionArgs) -> Result<(), Error> {
    let server = if args.client { Ok(None) } else { ask(flags).await.map(Some) };
    let (server_version, failure) = match server {
        Ok(version) => (version, None),
        Err(error) => (None, Some(error)),
    };
    let versions = Versions { client_version: VersionInfo::own(), server_version };
    print!("{}", versions.render(args.output)?);
    failure.map_or(Ok(()), Err)
}

async fn ask(flags: &ConnectionFlags) -> Result<VersionInfo, Error> {
    let connection = Connection::open(flags).await?;
    let error = match get(&connection.client, &version_path()).await {
        Ok(version) => return Ok(version),
        Err(error) => error,
    };
    let kube::Error::Api(status) = error else { return Err(Error::Version(connection.explain(&error))) };
    // Nothing at all is there, or only the version is not.
    let is_installed = status.code == 404 && get::<Value>(&connection.client, &group_path()).await.is_ok();
    Err(explain(&status, is_installed, connection.server))
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, kube::Error> {
    let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

/// What an API server's refusal means. `is_installed`: it has the API that the version is part of.
fn explain(status: &Status, is_installed: bool, server: http::Uri) -> Error {
    match status.code {
        404 if is_installed => Error::OldServer(server),
        404 => Error::NotInstalled(server),
        503 => Error::ControllerAway { server, reason: status.message.trim().to_owned() },
        _ => Error::Version(status.message.clone()),
    }
}

impl Versions {
    fn render(&self, form: Option<VersionForm>) -> Result<String, Error> {
        let failed = |error: String| Error::PrintVersion(error);
        Ok(match form {
            None => {
                let client = format!("Client Version: {}\n", self.client_version.git_version);
                let server = self.server_version.as_ref();
                client + &server.map_or_else(String::new, |server| format!("Server Version: {}\n", server.git_version))
            }
            Some(VersionForm::Json) => {
                serde_json::to_string_pretty(self).map_err(|error| failed(error.to_string()))? + "\n"
            }
            Some(VersionForm::Yaml) => serde_saphyr::to_string(self).map_err(|error| failed(error.to_string()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> VersionInfo {
        VersionInfo { git_version: text.to_owned() }
    }

    #[test]
    fn versions_in_each_form() {
        let both = Versions { client_version: version("v1"), server_version: Some(version("v2")) };
        let mine = Versions { client_version: version("v1"), server_version: None };
        assert_eq!(both.render(None).unwrap(), "Client Version: v1\nServer Version: v2\n");
        assert_eq!(mine.render(None).unwrap(), "Client Version: v1\n");
        let yaml = "clientVersion:\n  gitVersion: v1\nserverVersion:\n  gitVersion: v2\n";
        assert_eq!(both.render(Some(VersionForm::Yaml)).unwrap(), yaml);
        let json: Value = serde_json::from_str(&mine.render(Some(VersionForm::Json)).unwrap()).unwrap();
        assert_eq!(json, serde_json::json!({"clientVersion": {"gitVersion": "v1"}}));
    }

    #[test]
    fn a_refusal_says_who_is_missing_and_what_to_do() {
        let said = |code, is_installed| {
            let status = Status { code, message: "said\n".to_owned(), ..Status::default() };
            explain(&status, is_installed, "https://a:1/".parse().unwrap()).to_string()
        };
        for (code, is_installed, words) in [
            (404, false, "https://a:1/ knows no subresources.kubevirt.io/v1alpha1: ovm-controller is not installed"),
            (404, true, "https://a:1/ does not tell its version: it is older"),
            (503, false, "https://a:1/ does not reach ovm-controller: said; `kubectl get apiservice"),
            (403, false, "cannot ask for the server's version: said"),
        ] {
            assert!(said(code, is_installed).contains(words), "{code}: {}", said(code, is_installed));
        }
    }
}
