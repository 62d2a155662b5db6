//! Between an operator and the API server: holds watches back, or everything, and knows what was asked.

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

use crate::account;
use crate::world::World;

pub(crate) struct Proxy {
    shared: Arc<Shared>,
    serves: JoinHandle<()>,
}

struct Shared {
    client: Client,
    held: watch::Sender<BTreeSet<&'static str>>,
    cut: watch::Sender<bool>,
    seen: Mutex<Vec<Seen>>,
}

/// A request that was passed on, in the order of the answers.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub method: Method,
    pub path: String,
    /// How many had been answered when it came.
    pub after: usize,
}

impl Proxy {
    /// A proxy, and through it the operators of `world`.
    pub(crate) async fn before(world: &mut World) -> Self {
        let kubeconfig = Kubeconfig::read_from(&world.setup.kubeconfig).expect("a kubeconfig");
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("a cluster");
        config.read_timeout = None;
        let shared = Arc::new(Shared {
            client: Client::try_from(config).expect("a client"),
            held: watch::Sender::default(),
            cut: watch::Sender::default(),
            seen: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = format!("http://{}", listener.local_addr().expect("an address"));
        world.setup.kubeconfig = account::kubeconfig(&world.client, Some(&server)).await;
        let app = Router::new().fallback(pass).with_state(shared.clone());
        let serves = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { shared, serves }
    }

    /// Holds back what watches of `resource` report from now on.
    pub(crate) fn hold(&self, resource: &'static str) {
        self.shared.held.send_modify(|held| {
            held.insert(resource);
        });
    }

    /// Lets it through.
    pub(crate) fn release(&self, resource: &'static str) {
        self.shared.held.send_modify(|held| {
            held.remove(resource);
        });
    }

    /// Answers nothing any more, or goes on.
    pub(crate) fn cut(&self, cut: bool) {
        self.shared.cut.send_replace(cut);
    }

    /// What was asked.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("nobody panics here").clone()
    }
}

impl Seen {
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
    let after = shared.seen.lock().expect("nobody panics here").len();
    let watches = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
    let mut forward = axum::http::Request::new(client::Body::from(body.to_vec()));
    *forward.method_mut() = parts.method.clone();
    *forward.uri_mut() = parts.uri.path_and_query().expect("a path").as_str().parse().expect("it was one");
    copy(&parts.headers, forward.headers_mut());
    let Ok(answer) = shared.client.send(forward).await else {
        return Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).expect("an answer");
    };
    let (answer, body) = answer.into_parts();
    shared.seen.lock().expect("nobody panics here").push(Seen {
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
        // What was asked before the cut is not answered after it.
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

/// Those that are about the content: the connections are two.
fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}
