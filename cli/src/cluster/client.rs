//! Requests to the API server.

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, TypeMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde_json::Value;
use stic_contract::RunKind;
use stic_crds::ApiKind as _;

use super::api_error;
use super::owned_jobs::{self, OwnedJobs};
use super::proxy;
use super::run::Run;
use crate::args::Connection;
use crate::error::{Failure, Result};
use crate::run_name::RunName;

/// A client for one namespace of a cluster.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    pub namespace: String,
}

impl Cluster {
    pub(super) async fn connect(connection: &Connection) -> Result<Self> {
        let Connection { kubeconfig, context, namespace } = connection;
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::config(format!(
                "cannot load a cluster configuration: {error}. Select a kubeconfig with --kubeconfig or KUBECONFIG, and one of its contexts with --context."
            ))
        };
        let file = match kubeconfig {
            Some(path) => Some(Kubeconfig::read_from(path).map_err(|error| unusable(&error))?),
            None => Kubeconfig::read().ok(),
        };
        let proxy = file.as_ref().and_then(|file| proxy::of_kubeconfig(file, context.as_deref()));
        let mut config = match (file, kubeconfig) {
            (Some(file), Some(_)) => {
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&error))?
            }
            // In a pod, where there is no kubeconfig, this uses the pod's service account.
            _ if context.is_none() => Config::infer().await.map_err(|error| unusable(&error))?,
            _ => Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?,
        };
        let server = &config.cluster_url;
        let scheme = server.scheme_str().unwrap_or("https");
        let port = server.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
        let proxy =
            proxy::choose(proxy.as_deref(), scheme, server.host().unwrap_or_default(), port, |name| {
                std::env::var(name).ok()
            });
        config.proxy_url = match proxy {
            Some(proxy) => Some(proxy.parse().map_err(|error| {
                Failure::config(format!(
                    "the proxy {proxy} is not a URL: {error}. Correct proxy-url in the kubeconfig, or HTTPS_PROXY."
                ))
            })?),
            None => None,
        };
        // kube would repeat a request for minutes without a word.
        config.default_retry = false;
        // A log can be silent for as long as a step computes.
        config.read_timeout = None;
        let namespace = namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self { client, namespace })
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn runs(&self, kind: RunKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.api_resource())
    }

    pub(super) async fn get_run(&self, name: &RunName) -> Result<Run> {
        let found = self.runs(name.kind).get_opt(&name.name).await.map_err(api_error::failure)?;
        let object = found.ok_or_else(|| {
            Failure::config(format!(
                "{name} does not exist in namespace {}. List the runs with kubectl stic get, or select another namespace with --namespace.",
                self.namespace
            ))
        })?;
        Run::parse(name.kind, object)
    }

    /// All runs of this namespace, or of all namespaces.
    pub(super) async fn list_runs(&self, all_namespaces: bool) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for kind in RunKind::ALL {
            let resource = kind.api_resource();
            let api: Api<DynamicObject> =
                if all_namespaces { Api::all_with(self.client.clone(), &resource) } else { self.runs(kind) };
            for mut object in api.list(&ListParams::default()).await.map_err(api_error::failure)?.items {
                // The API server leaves out apiVersion and kind of the items of a list.
                let (api_version, kind_name) = (resource.api_version.clone(), resource.kind.clone());
                object.types = Some(TypeMeta { api_version, kind: kind_name });
                runs.push(Run::parse(kind, object)?);
            }
        }
        Ok(runs)
    }

    pub(super) async fn list_jobs(&self, run: &Run) -> Result<OwnedJobs> {
        let of_run = ListParams::default().labels(&owned_jobs::selector(&run.uid));
        let jobs = self.api().list(&of_run).await.map_err(api_error::failure)?.items;
        let pods = self.api().list(&of_run).await.map_err(api_error::failure)?.items;
        Ok(OwnedJobs::new(&run.uid, jobs, pods))
    }

    /// Applies a merge patch to a run. Returns whether it was applied: not if the run is no longer of the version that the patch
    /// names.
    pub(super) async fn patch_run(&self, name: &RunName, patch: &Value) -> Result<bool> {
        let parameters = PatchParams { field_manager: Some("kubectl-stic".into()), ..PatchParams::default() };
        let patched = self.runs(name.kind).patch(&name.name, &parameters, &Patch::Merge(patch)).await;
        match patched {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(api_error::failure(error)),
        }
    }
}
