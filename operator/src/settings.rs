//! What the operator can be told: flags, then environment, then a file, then defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Deserialize;

/// The STIC operator: runs StageOneRun and StageTwoRun objects of a Kubernetes cluster.
#[derive(Debug, Default, Parser)]
#[command(version, about)]
pub struct Args {
    /// A YAML file with the settings below, in camelCase. Flags and environment win over it.
    #[arg(long, value_name = "FILE", env = "STIC_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "its fields are flags")]
    #[command(flatten)]
    pub given: Given,
}

/// Settings as they are given; what is absent has a default.
#[derive(Debug, Default, Clone, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Given {
    /// The image of pods whose run names none. Name it by digest: it is pinned in each run's status.
    #[arg(long, value_name = "IMAGE", env = "STIC_TRAINER_IMAGE")]
    pub trainer_image: Option<String>,
    /// Look after this namespace only; all by default.
    #[arg(long, value_name = "NAMESPACE", env = "STIC_NAMESPACE")]
    pub namespace: Option<String>,
    /// Serve /healthz, /readyz and /metrics there [default: 0.0.0.0:8081]
    #[arg(long, value_name = "ADDRESS", env = "STIC_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Whether replicas elect a leader [default: true]
    #[arg(long, value_name = "BOOL", env = "STIC_LEADER_ELECTION")]
    pub leader_election: Option<bool>,
    /// The namespace of the lease [default: the operator's own]
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// The lease [default: stic-operator]
    #[arg(long, value_name = "NAME", env = "STIC_LEASE_NAME")]
    pub lease_name: Option<String>,
    /// What this replica calls itself [default: the host name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,
    /// How many runs of a kind are reconciled at once [default: 8]
    #[arg(long, value_name = "N", env = "STIC_CONCURRENCY")]
    pub concurrency: Option<u16>,
    /// Seconds between two looks at the progress of a running step; more after minutes, up to 60 [default: 5]
    #[arg(long, value_name = "SECONDS", env = "STIC_PROGRESS_SECONDS")]
    pub progress_seconds: Option<u64>,
    /// How many pods are asked for their progress at once [default: 32]
    #[arg(long, value_name = "N", env = "STIC_PROGRESS_CONCURRENCY")]
    pub progress_concurrency: Option<usize>,
    /// How logs are written [default: json]
    #[arg(long, value_enum, env = "STIC_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, such as info or stic_operator=debug,warn [default: info]
    #[arg(long, value_name = "FILTER", env = "STIC_LOG")]
    pub log_level: Option<String>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// All settings, settled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are those of Given")]
pub struct Settings {
    pub trainer_image: String,
    pub namespace: Option<String>,
    pub listen: SocketAddr,
    pub lease: Option<Lease>,
    pub concurrency: u16,
    pub progress_interval: Duration,
    pub progress_concurrency: usize,
    pub log_format: LogFormat,
    pub log_level: String,
}

/// The lease to lead by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its namespace; absent means that of the connection.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What this replica calls itself.
    pub identity: String,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// The file cannot be read.
    #[error("cannot read the settings in {path}: {source}; correct --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not settings.
    #[error("{path}: {reason}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        reason: String,
    },
    /// A setting that has no default.
    #[error("{0} is not set; give it as a flag, in the environment or in the file of --config")]
    Missing(&'static str),
    /// A setting that cannot be.
    #[error("{name} is {value}; it must be at least 1")]
    Zero {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: u64,
    },
}

impl Settings {
    /// Settles the settings.
    ///
    /// # Errors
    /// What is missing or cannot be used.
    pub fn settle(args: Args) -> Result<Self, InvalidSettings> {
        let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let Given {
            trainer_image,
            namespace,
            listen,
            leader_election,
            lease_namespace,
            lease_name,
            identity,
            concurrency,
            progress_seconds,
            progress_concurrency,
            log_format,
            log_level,
        } = args.given.or(file);
        let at_least_one = |name, value: u64| match value {
            0 => Err(InvalidSettings::Zero { name, value }),
            value => Ok(value),
        };
        let concurrency = concurrency.unwrap_or(8);
        let progress_concurrency = progress_concurrency.unwrap_or(32);
        at_least_one("concurrency", u64::from(concurrency))?;
        at_least_one("progressConcurrency", progress_concurrency as u64)?;
        let progress_seconds = at_least_one("progressSeconds", progress_seconds.unwrap_or(5))?;
        let lease = leader_election.unwrap_or(true).then(|| Lease {
            namespace: lease_namespace,
            name: lease_name.unwrap_or_else(|| "stic-operator".into()),
            identity: identity.unwrap_or_else(host_name),
        });
        Ok(Self {
            trainer_image: trainer_image
                .filter(|image| !image.is_empty())
                .ok_or(InvalidSettings::Missing("trainerImage"))?,
            namespace: namespace.filter(|namespace| !namespace.is_empty()),
            listen: listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 8081))),
            lease,
            concurrency,
            progress_interval: Duration::from_secs(progress_seconds),
            progress_concurrency,
            log_format: log_format.unwrap_or_default(),
            log_level: log_level.unwrap_or_else(|| "info".into()),
        })
    }
}

impl Given {
    /// Each setting of `self`, or else of `other`.
    fn or(self, other: Self) -> Self {
        Self {
            trainer_image: self.trainer_image.or(other.trainer_image),
            namespace: self.namespace.or(other.namespace),
            listen: self.listen.or(other.listen),
            leader_election: self.leader_election.or(other.leader_election),
            lease_namespace: self.lease_namespace.or(other.lease_namespace),
            lease_name: self.lease_name.or(other.lease_name),
            identity: self.identity.or(other.identity),
            concurrency: self.concurrency.or(other.concurrency),
            progress_seconds: self.progress_seconds.or(other.progress_seconds),
            progress_concurrency: self.progress_concurrency.or(other.progress_concurrency),
            log_format: self.log_format.or(other.log_format),
            log_level: self.log_level.or(other.log_level),
        }
    }
}

fn read(path: &Path) -> Result<Given, InvalidSettings> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| InvalidSettings::Unreadable { path: path.to_owned(), source })?;
    serde_saphyr::from_str(&text)
        .map_err(|error| InvalidSettings::Shape { path: path.to_owned(), reason: error.to_string() })
}

// Two processes on one host, as in tests, must not take each other for themselves.
fn host_name() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "stic-operator".into());
    format!("{host}-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = std::env::temp_dir().join(format!("stic-settings-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let path = dir.join("config.yaml");
        std::fs::write(&path, "trainerImage: a\nconcurrency: 3\nlogFormat: text\n").expect("a file");
        let given = Given { concurrency: Some(5), ..Given::default() };
        let settings = Settings::settle(Args { config: Some(path.clone()), given }).expect("they are right");
        assert_eq!((settings.trainer_image.as_str(), settings.concurrency), ("a", 5));
        assert_eq!((settings.log_format, settings.progress_interval.as_secs()), (LogFormat::Text, 5));
        std::fs::write(&path, "trainerImage: a\ncolour: red\n").expect("a file");
        let wrong = Settings::settle(Args { config: Some(path), given: Given::default() });
        let wrong = wrong.expect_err("colour is no setting").to_string();
        assert!(wrong.contains("colour") && wrong.contains("config.yaml"), "{wrong}");
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Settings::settle(Args::default()).expect_err("no image").to_string();
        assert!(error.starts_with("trainerImage is not set"), "{error}");
    }
}
