//! `--metrics ADDR`: the metrics of a node over HTTP. Nothing but `GET /metrics` is answered.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode, header},
};
use barewire_node::Endpoint;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
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

fn answer(request: &Request<Incoming>, endpoint: &Endpoint) -> Response<Body> {
    let status = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET) => {
            let mut response = Response::new(Body::from(endpoint.metrics()));
            let kind = header::HeaderValue::from_static(OPENMETRICS);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            return response;
        }
        ("/metrics", _) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
