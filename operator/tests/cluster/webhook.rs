//! A mutating admission webhook over TLS for the objects of one namespace, which answers as a test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::serve::Listener;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::certificate;
use crate::node::from;
use crate::service_account;
use crate::test_env::{TestEnv, until};

/// What a webhook answers to the creation of an object.
#[derive(Debug)]
pub(crate) enum Review {
    Allow,
    /// With an HTTP code, or without one, as Kyverno does.
    Deny(Option<u16>),
    /// A JSON patch of the object.
    Patch(Value),
    /// Nothing, until the API server gives up.
    Hang,
}

/// What a webhook says when it denies an object.
pub(crate) const DENIAL: &str = "policy require-team: label team is required";

pub(crate) struct Webhook {
    configurations: Api<MutatingWebhookConfiguration>,
    name: String,
    serves: JoinHandle<()>,
}

struct Reviewer {
    review: Box<dyn Fn(&Value) -> Review + Send + Sync>,
    is_called: AtomicBool,
}

impl Webhook {
    /// A webhook that reviews the Jobs, pods, ConfigMaps and claims of `env` once this returns.
    pub(crate) async fn start(
        env: &TestEnv,
        review: impl Fn(&Value) -> Review + Send + Sync + 'static,
    ) -> Self {
        let name = format!("review-{}", env.namespace);
        let (certificate, acceptor) = certificate(&service_account::folder("webhook"), &name);
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}/", tcp.local_addr().expect("an address"));
        let reviewer = Arc::new(Reviewer { review: Box::new(review), is_called: AtomicBool::default() });
        let app = Router::new().fallback(answer).with_state(reviewer.clone());
        let listener = TlsListener { tcp, acceptor };
        let serves = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        let object: MutatingWebhookConfiguration = from(json!({"metadata": {"name": name}, "webhooks": [{
            "name": "review.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 10,
            "clientConfig": {"url": url, "caBundle": ByteString(certificate)},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": env.namespace}},
            "rules": [{"apiGroups": ["", "batch"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["jobs", "pods", "configmaps", "persistentvolumeclaims"]}]}]}));
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(env.client.clone());
        configurations.create(&PostParams::default(), &object).await.expect("a webhook");
        // It takes effect with a delay.
        let probe: ConfigMap = from(json!({"metadata": {"generateName": "probe-"}}));
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        until("reviewed", async || {
            let _ = env.api().create(&dry, &probe).await;
            reviewer.is_called.load(Ordering::Relaxed).then_some(())
        })
        .await;
        Self { configurations, name, serves }
    }

    pub(crate) async fn remove(self) {
        self.configurations.delete(&self.name, &DeleteParams::default()).await.expect("a webhook");
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

async fn answer(State(reviewer): State<Arc<Reviewer>>, body: Bytes) -> impl IntoResponse {
    reviewer.is_called.store(true, Ordering::Relaxed);
    let body: Value = serde_json::from_slice(&body).expect("an AdmissionReview");
    let request = &body["request"];
    let mut response = json!({"uid": request["uid"], "allowed": true});
    match (reviewer.review)(&request["object"]) {
        Review::Allow => {}
        Review::Deny(code) => {
            response["allowed"] = json!(false);
            response["status"] = json!({"status": "Failure", "message": DENIAL});
            if let Some(code) = code {
                response["status"]["code"] = json!(code);
            }
        }
        Review::Patch(patch) => {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(ByteString(patch.to_string().into_bytes()));
        }
        Review::Hang => std::future::pending().await,
    }
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    ([(CONTENT_TYPE, "application/json")], review.to_string())
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.tcp.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
