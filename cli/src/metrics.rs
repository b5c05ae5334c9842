//! `--metrics ADDR`: the metrics of a node over HTTP at `/metrics`, and each connection with what keeps
//! it open as JSON at `/connections`. Nothing else is answered.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode, header},
};
use barewire_node::{Connection, Endpoint, Role};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};

use crate::{failure::Failure, output};

/// Scrapers served at once; others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8;
/// Time a scraper has from connecting to the end of the answer. There is one request a connection.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request, the least hyper accepts.
const MAX_REQUEST: usize = 8 * 1024;
/// Header lines of a request.
const MAX_HEADERS: usize = 32;
/// Pause after an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(500);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens, and says where.
pub(crate) async fn bind(addr: SocketAddr, json: bool) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(addr).await.map_err(|error| {
        Failure(format!(
            "cannot serve metrics on {addr}: {error}; choose another port"
        ))
    })?;
    let url = format!("http://{}/metrics", listener.local_addr()?);
    let value = json!({"event": "metrics", "url": url});
    output::event(json, &value, || format!("metrics at {url}"));
    Ok(listener)
}

/// Answers scrapers for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, endpoint: Endpoint) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut serving = JoinSet::new();
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        while serving.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept scrapers for the moment");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let endpoint = endpoint.clone();
        let answering = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(MAX_REQUEST)
            .max_headers(MAX_HEADERS)
            .timer(TokioTimer::new())
            .header_read_timeout(MAX_TIME)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| {
                    let answer = answer(&request, &endpoint);
                    async { Ok::<_, Infallible>(answer) }
                }),
            );
        serving.spawn(async move {
            // How a scraper fails is its own affair.
            let _ = timeout(MAX_TIME, answering).await;
            drop(slot);
        });
    }
}

/// Each connection, the oldest first, and why it is open.
fn connections(endpoint: &Endpoint) -> Value {
    let describe = |connection: &Connection| {
        let (info, why) = (connection.info(), connection.why_open());
        let holds = why.holds.iter().map(|hold| {
            json!({
                "by": hold.kind.as_str(), "name": &*hold.name, "for_s": hold.age.as_secs_f64(),
            })
        });
        json!({
            "peer": info.peer_id.to_string(), "remote": info.remote_addr.to_string(),
            "dialled_by": if info.role == Role::Client { "us" } else { "remote" },
            "holds": holds.collect::<Vec<_>>(), "why_open": why.to_string(),
        })
    };
    endpoint.connections().iter().map(describe).collect()
}

fn answer(request: &Request<Incoming>, endpoint: &Endpoint) -> Response<Body> {
    let found = |text: String, kind| {
        let mut response = Response::new(Body::from(text));
        let kind = header::HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    };
    let status = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET) => return found(endpoint.metrics(), OPENMETRICS),
        ("/connections", &Method::GET) => {
            return found(connections(endpoint).to_string(), "application/json");
        }
        ("/metrics" | "/connections", _) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_node::Keypair;

    use super::*;

    #[tokio::test]
    async fn each_connection_is_shown_with_what_keeps_it_open() {
        let [one, other] = [(); 2].map(|()| Endpoint::builder(Keypair::generate(&mut rand::rng())));
        let (one, other) = (one.bind().await.unwrap(), other.bind().await.unwrap());
        let addr = other.listen("/memory/0".parse().unwrap()).await.unwrap();
        let connection = one.connect(addr).await.unwrap();
        assert!(
            connections(&one)[0]["why_open"]
                .to_string()
                .contains("idle")
        );
        let _lease = connection.lease("a transfer");
        let shown = &connections(&one)[0];
        assert_eq!(shown["peer"], other.peer_id().to_string());
        assert_eq!(shown["holds"][0]["by"], "lease");
        assert_eq!(shown["holds"][0]["name"], "a transfer");
    }
}
