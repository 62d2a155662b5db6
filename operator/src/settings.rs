//! Settings of the operator. Flags take precedence over the environment, that over a file, and that over defaults.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Deserialize;
use stic_contract::log_level::{self, UnknownLevel};

use crate::trainer_images::TrainerImages;

/// The STIC operator: carries out the StageOneRun, StageTwoRun and EvaluationRun objects of a Kubernetes cluster.
#[derive(Debug, Default, Parser)]
#[command(version, about)]
pub struct Args {
    /// A YAML file with the settings below, in camelCase. Flags and the environment take precedence over it.
    #[arg(long, value_name = "FILE", env = "STIC_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub given: GivenSettings,
}

/// Settings as given by flags, the environment or a file. Most have a default.
#[derive(Debug, Default, Clone, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GivenSettings {
    /// The trainer image for runs that name none. Prefer a digest, because each run's status pins the image.
    #[arg(long, value_name = "IMAGE", env = "STIC_TRAINER_IMAGE")]
    pub trainer_image: Option<String>,
    /// The same for pods that request a GPU [default: the trainer image]
    #[arg(long, value_name = "IMAGE", env = "STIC_TRAINER_GPU_IMAGE")]
    pub trainer_gpu_image: Option<String>,
    /// Watch only these namespaces, separated by commas [default: all namespaces]
    #[arg(long = "namespace", value_name = "NAMESPACES", env = "STIC_NAMESPACE", value_delimiter = ',')]
    pub namespaces: Option<Vec<String>>,
    // In a doc comment [::] would be a link.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STIC_LISTEN",
        help = "The address of /healthz, /readyz and /metrics; [::] means every address, of IPv4 too [default: [::]:8081]"
    )]
    pub listen: Option<SocketAddr>,
    /// Elect a leader among the replicas [default: true]
    #[arg(long, value_name = "BOOL", env = "STIC_LEADER_ELECTION")]
    pub leader_election: Option<bool>,
    /// The namespace of the lease [default: the operator's own]
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// The name of the lease [default: stic-operator]
    #[arg(long, value_name = "NAME", env = "STIC_LEASE_NAME")]
    pub lease_name: Option<String>,
    /// The name of this replica in the lease [default: the host name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,
    /// How many runs of each kind are reconciled concurrently [default: 8]
    #[arg(long, value_name = "N", env = "STIC_CONCURRENCY")]
    pub concurrency: Option<u16>,
    /// Seconds between two reads of a running step's progress; more for a long step, up to 60 [default: 5]
    #[arg(long, value_name = "SECONDS", env = "STIC_PROGRESS_SECONDS")]
    pub progress_seconds: Option<u64>,
    /// How many pods are read for their progress concurrently [default: 32]
    #[arg(long, value_name = "N", env = "STIC_PROGRESS_CONCURRENCY")]
    pub progress_concurrency: Option<usize>,
    /// The format of logs [default: json]
    #[arg(long, value_enum, env = "STIC_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which logs are written, such as info or stic_operator=debug,warn [default: info]
    #[arg(long, value_name = "FILTER", env = "STIC_LOG")]
    pub log_level: Option<String>,
}

/// The format of logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// Human-readable lines.
    Text,
}

/// All settings, with defaults applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub trainer_images: TrainerImages,
    /// Empty means all namespaces.
    pub namespaces: BTreeSet<String>,
    pub listen: SocketAddr,
    /// Absent without leader election.
    pub lease: Option<LeaseSettings>,
    pub concurrency: u16,
    pub progress_interval: Duration,
    pub progress_concurrency: usize,
    pub log_format: LogFormat,
    pub log_level: String,
}

/// The lease of the leader election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Absent means the namespace of the connection.
    pub namespace: Option<String>,
    pub name: String,
    /// The name of this replica.
    pub identity: String,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    #[error("cannot read the settings in {path}: {source}; correct --config")]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The reason names the line.
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("{0} is not set; set it with a flag, in the environment or in the file of --config")]
    Missing(&'static str),
    #[error("logLevel: {0}")]
    LogLevel(#[from] UnknownLevel),
    #[error("{name} is {value}; it must be at least 1")]
    Zero { name: &'static str, value: u64 },
}

impl Settings {
    /// Merges flags, environment and file, and applies defaults.
    ///
    /// # Errors
    /// A setting is missing or invalid.
    pub fn resolve(args: Args) -> Result<Self, InvalidSettings> {
        let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let GivenSettings {
            trainer_image,
            trainer_gpu_image,
            namespaces,
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
        let given = |image: Option<String>| image.filter(|image| !image.is_empty());
        let at_least_one = |name, value: u64| match value {
            0 => Err(InvalidSettings::Zero { name, value }),
            value => Ok(value),
        };
        let concurrency = concurrency.unwrap_or(8);
        let progress_concurrency = progress_concurrency.unwrap_or(32);
        at_least_one("concurrency", u64::from(concurrency))?;
        at_least_one("progressConcurrency", progress_concurrency as u64)?;
        let progress_seconds = at_least_one("progressSeconds", progress_seconds.unwrap_or(5))?;
        let lease = leader_election.unwrap_or(true).then(|| LeaseSettings {
            namespace: lease_namespace,
            name: lease_name.unwrap_or_else(|| "stic-operator".into()),
            identity: identity.unwrap_or_else(host_name),
        });
        let log_level = log_level.unwrap_or_else(|| "info".into());
        log_level::check(&log_level)?;
        let cpu = given(trainer_image).ok_or(InvalidSettings::Missing("trainerImage"))?;
        let gpu = given(trainer_gpu_image).unwrap_or_else(|| cpu.clone());
        Ok(Self {
            trainer_images: TrainerImages { cpu, gpu },
            namespaces: namespaces.into_iter().flatten().filter(|namespace| !namespace.is_empty()).collect(),
            listen: listen.unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8081))),
            lease,
            concurrency,
            progress_interval: Duration::from_secs(progress_seconds),
            progress_concurrency,
            log_format: log_format.unwrap_or_default(),
            log_level,
        })
    }
}

impl GivenSettings {
    /// Each setting of `self`, or else that of `other`.
    fn or(self, other: Self) -> Self {
        Self {
            trainer_image: self.trainer_image.or(other.trainer_image),
            trainer_gpu_image: self.trainer_gpu_image.or(other.trainer_gpu_image),
            namespaces: self.namespaces.or(other.namespaces),
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

fn read(path: &Path) -> Result<GivenSettings, InvalidSettings> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| InvalidSettings::Unreadable { path: path.to_owned(), source })?;
    serde_saphyr::from_str(&text)
        .map_err(|error| InvalidSettings::Malformed { path: path.to_owned(), reason: error.to_string() })
}

// With the process ID, so that two processes on one host, as in tests, have different names.
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
        let given = GivenSettings { concurrency: Some(5), ..GivenSettings::default() };
        let settings = Settings::resolve(Args { config: Some(path.clone()), given }).expect("they are valid");
        assert_eq!((settings.trainer_images.gpu.as_str(), settings.concurrency), ("a", 5));
        let cuda = GivenSettings { trainer_gpu_image: Some("b".into()), ..GivenSettings::default() };
        let with_gpus = Settings::resolve(Args { config: Some(path.clone()), given: cuda });
        let TrainerImages { cpu, gpu } = with_gpus.expect("they are valid").trainer_images;
        assert_eq!((cpu.as_str(), gpu.as_str()), ("a", "b"));
        assert_eq!((settings.log_format, settings.progress_interval.as_secs()), (LogFormat::Text, 5));
        std::fs::write(&path, "trainerImage: a\ncolour: red\n").expect("a file");
        let wrong = Settings::resolve(Args { config: Some(path), given: GivenSettings::default() });
        let wrong = wrong.expect_err("colour is not a setting").to_string();
        assert!(wrong.contains("colour") && wrong.contains("config.yaml"), "{wrong}");
        std::fs::remove_dir_all(&dir).expect("it exists");
    }

    #[test]
    fn namespaces_are_a_list() {
        let given = |arguments: &[&str]| {
            let arguments = ["stic-operator", "--trainer-image", "a"].iter().chain(arguments);
            let settings = Settings::resolve(Args::try_parse_from(arguments).expect("flags"));
            settings.expect("they are valid").namespaces.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(given(&["--namespace", "b,a"]), ["a", "b"]);
        assert_eq!(given(&["--namespace", "a"]), ["a"]);
        assert!(given(&["--namespace", ""]).is_empty(), "all of them");
    }

    #[test]
    fn a_level_that_does_not_exist_is_an_error() {
        let arguments = ["stic-operator", "--trainer-image", "a", "--log-level", "loud"];
        let error = Settings::resolve(Args::try_parse_from(arguments).expect("flags")).expect_err("no level");
        assert!(error.to_string().starts_with("logLevel: \"loud\" is not a log level"), "{error}");
    }

    #[test]
    fn a_missing_setting_is_named() {
        let error = Settings::resolve(Args::default()).expect_err("no image").to_string();
        assert!(error.starts_with("trainerImage is not set"), "{error}");
    }
}
