//! A proxy between an operator and the API server. It can hold back watches, or everything, and records the requests.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use http_body_util::BodyExt;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Client, client};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::service_account;
use crate::test_env::TestEnv;

pub(crate) struct Proxy {
    shared: Arc<Shared>,
    serves: JoinHandle<()>,
}

struct Shared {
    client: Client,
    held: watch::Sender<BTreeSet<&'static str>>,
    cut: watch::Sender<bool>,
    requests: Mutex<Vec<ProxiedRequest>>,
}

/// A request that was forwarded, in the order of the responses.
#[derive(Debug, Clone)]
pub(crate) struct ProxiedRequest {
    pub method: Method,
    pub path: String,
    /// How many responses there had been when it arrived.
    pub after: usize,
}

impl Proxy {
    /// A proxy, and through it the operators of `env`.
    pub(crate) async fn before(env: &mut TestEnv) -> Self {
        let kubeconfig = Kubeconfig::read_from(&env.setup.kubeconfig).expect("a kubeconfig");
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("a cluster");
        config.read_timeout = None;
        let shared = Arc::new(Shared {
            client: Client::try_from(config).expect("a client"),
            held: watch::Sender::default(),
            cut: watch::Sender::default(),
            requests: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = format!("http://{}", listener.local_addr().expect("an address"));
        env.setup.kubeconfig = service_account::kubeconfig(&env.client, Some(&server)).await;
        let app = Router::new().fallback(pass).with_state(shared.clone());
        let serves = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { shared, serves }
    }

    /// Holds back the events of watches of `resource`.
    pub(crate) fn hold(&self, resource: &'static str) {
        self.shared.held.send_modify(|held| {
            held.insert(resource);
        });
    }

    /// Releases the events that were held back.
    pub(crate) fn release(&self, resource: &'static str) {
        self.shared.held.send_modify(|held| {
            held.remove(resource);
        });
    }

    /// Stops or resumes responding.
    pub(crate) fn cut(&self, cut: bool) {
        self.shared.cut.send_replace(cut);
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<ProxiedRequest> {
        self.shared.requests.lock().expect("nobody panics here").clone()
    }
}

impl ProxiedRequest {
    pub(crate) fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.connected().await;
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let path = parts.uri.path().to_owned();
    let after = shared.requests.lock().expect("nobody panics here").len();
    let watches = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
    let mut forward = axum::http::Request::new(client::Body::from(body.to_vec()));
    *forward.method_mut() = parts.method.clone();
    *forward.uri_mut() = parts.uri.path_and_query().expect("a path").as_str().parse().expect("it was one");
    copy(&parts.headers, forward.headers_mut());
    let Ok(answer) = shared.client.send(forward).await else {
        return Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).expect("an answer");
    };
    let (answer, body) = answer.into_parts();
    shared.requests.lock().expect("nobody panics here").push(ProxiedRequest {
        method: parts.method,
        path: path.clone(),
        after,
    });
    let body = if watches {
        let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
        Body::from_stream(body.into_data_stream().then(move |chunk| {
            let (shared, resource) = (shared.clone(), resource.clone());
            async move {
                shared.connected().await;
                let mut held = shared.held.subscribe();
                let _ = held.wait_for(|held| !held.contains(resource.as_str())).await;
                chunk
            }
        }))
    } else {
        // A request from before the cut gets no response after it.
        let body = body.collect().await.expect("a body").to_bytes();
        shared.connected().await;
        Body::from(body)
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    copy(&answer.headers, response.headers_mut());
    response
}

impl Shared {
    async fn connected(&self) {
        let _ = self.cut.subscribe().wait_for(|cut| !cut).await;
    }
}

/// The headers about the content: those about the connection do not apply to the other one.
fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}
