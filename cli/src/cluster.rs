//! Runs on a cluster: what is read of them, and the two fields that are written.

mod children;
mod get;
mod logs;
mod steer;
mod tree;

use std::future::Future;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use stic_crds::{RunStatus, StageOneRun, StageTwoRun};

use self::children::Children;
use crate::args::{Connection, GetArgs, LogsArgs, RerunArgs, SteerArgs};
use crate::error::{Failure, Result};

pub(crate) fn get(args: &GetArgs) -> Result<()> {
    wait_for(get::get(args))
}

pub(crate) fn logs(args: &LogsArgs) -> Result<()> {
    wait_for(logs::logs(args))
}

pub(crate) fn suspend(args: &SteerArgs, held: bool) -> Result<()> {
    wait_for(steer::suspend(args, held))
}

pub(crate) fn rerun(args: &RerunArgs) -> Result<()> {
    wait_for(steer::rerun(args))
}

fn wait_for(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::bug)?;
    runtime.block_on(command)
}

/// A namespace of a cluster.
#[derive(Clone)]
struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn connect(connection: &Connection) -> Result<Self> {
        let Connection { kubeconfig, context, namespace } = connection;
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::config(format!(
                "no cluster is known: {error}; name a kubeconfig with --kubeconfig or KUBECONFIG, and a context in it with --context"
            ))
        };
        let mut config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&error))?
            }
            // In a pod there is no kubeconfig, and the pod's own account is meant.
            None if context.is_none() => Config::infer().await.map_err(|error| unusable(&error))?,
            None => Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?,
        };
        // A log may be silent for as long as a step computes.
        config.read_timeout = None;
        let namespace = namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self { client, namespace })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn runs(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind))
    }

    /// A run.
    async fn run(&self, kind: &'static str, name: &str) -> Result<Run> {
        let found = self.runs(kind).get_opt(name).await.map_err(refused)?;
        let object = found.ok_or_else(|| {
            Failure::config(format!(
                "{} does not exist in namespace {}; kubectl stic get lists those that do, and --namespace names another",
                title(kind, name),
                self.namespace
            ))
        })?;
        Run::read(kind, object)
    }

    /// All runs, of this namespace or of all.
    async fn list(&self, everywhere: bool) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for kind in ["StageOneRun", "StageTwoRun"] {
            let resource = resource(kind);
            let api: Api<DynamicObject> =
                if everywhere { Api::all_with(self.client.clone(), &resource) } else { self.runs(kind) };
            for mut object in api.list(&ListParams::default()).await.map_err(refused)?.items {
                // The items of a list have no kind of their own.
                object.types = Some(kube::api::TypeMeta {
                    api_version: resource.api_version.clone(),
                    kind: kind.into(),
                });
                runs.push(Run::read(kind, object)?);
            }
        }
        Ok(runs)
    }

    async fn children(&self, run: &Run) -> Result<Children> {
        let of_run = ListParams::default().labels(&children::selector(&run.uid));
        let jobs = self.api().list(&of_run).await.map_err(refused)?.items;
        let pods = self.api().list(&of_run).await.map_err(refused)?.items;
        Ok(Children::of(&run.uid, jobs, pods))
    }
}

/// A run, as far as it is looked at here. Fields that this version does not know are kept.
#[derive(Debug, Clone)]
struct Run {
    kind: &'static str,
    name: String,
    uid: String,
    object: DynamicObject,
    status: RunStatus,
}

impl Run {
    fn read(kind: &'static str, mut object: DynamicObject) -> Result<Self> {
        object.metadata.managed_fields = None;
        let name = object.name_any();
        let status = object.data.get("status").cloned().map(parse::<RunStatus>).transpose();
        let status = status.map_err(|error| {
            Failure::unavailable(format!(
                "{}: this version does not understand its status ({error}); use the kubectl-stic of the operator's version",
                title(kind, &name)
            ))
        })?;
        Ok(Self {
            kind,
            uid: object.uid().unwrap_or_default(),
            name,
            status: status.unwrap_or_default(),
            object,
        })
    }

    /// `stageonerun/scenes`, as kubectl writes it.
    fn title(&self) -> String {
        title(self.kind, &self.name)
    }

    fn spec(&self, field: &str) -> Option<&Value> {
        self.object.data.get("spec")?.get(field)
    }

    fn suspended(&self) -> bool {
        self.spec("suspend").and_then(Value::as_bool).unwrap_or_default()
    }

    fn rerun(&self) -> u32 {
        self.spec("rerun")
            .and_then(Value::as_u64)
            .and_then(|rerun| u32::try_from(rerun).ok())
            .unwrap_or_default()
    }

    /// The phase; none while nobody has looked at the run.
    fn phase(&self) -> Option<&str> {
        self.status.condition(stic_crds::status::SUCCEEDED).map(|condition| condition.reason.as_str())
    }

    /// Whether the rerun that the spec asks for has ended.
    fn is_over(&self) -> bool {
        self.status.rerun == self.rerun() && self.status.succeeded().is_some()
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    serde_json::from_value(value)
}

fn title(kind: &str, name: &str) -> String {
    format!("{}/{name}", kind.to_lowercase())
}

fn resource(kind: &str) -> ApiResource {
    if kind == "StageOneRun" {
        ApiResource::erase::<StageOneRun>(&())
    } else {
        ApiResource::erase::<StageTwoRun>(&())
    }
}

/// What the API server answered, or that it did not.
fn refused(error: kube::Error) -> Failure {
    let passes = match &error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        _ => true,
    };
    let failure = match error {
        // The resource itself is unknown: a missing object is answered by `get_opt`.
        kube::Error::Api(status) if status.code == 404 && status.message.starts_with("404") => {
            Failure::unavailable(
                "the cluster does not know StageOneRun and StageTwoRun; install the operator's chart, or name another cluster with --context",
            )
        }
        kube::Error::Api(status) if status.code == 401 => Failure::unavailable(format!(
            "the API server does not accept these credentials: {}; log in again, or name others with --context",
            status.message
        )),
        kube::Error::Api(status) if status.code == 403 => Failure::unavailable(format!(
            "{}; ask for that right, or name another namespace or context",
            status.message
        )),
        kube::Error::Api(status) if status.code == 409 => {
            Failure::unavailable(format!("{}; run the same command again", status.message))
        }
        kube::Error::Api(status) => Failure::unavailable(format!(
            "the API server refuses: {}; mend what it names, then run the same command again",
            status.message
        )),
        error => Failure::unavailable(format!(
            "the API server cannot be reached: {}; check the cluster and the kubeconfig, then run the same command again",
            whole(&error)
        )),
    };
    Failure { passes, ..failure }
}

/// An error with what is below it: the outermost words of a failed connection say nothing.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        inner = error.source();
    }
    text
}
