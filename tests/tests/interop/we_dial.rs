//! barewire dials, the foreign stack listens.

use std::time::Instant;

use barewire_node::{StreamError, protocols::ping};
use barewire_tests::{
    peers::Foreign,
    process::{Process, number, run, run_failing, text},
};
use bytes::Bytes;
use rand::Rng;
use tokio::time::timeout;

use crate::{
    CellResult, DEADLINE, Pair, REPEATED, Tally, ensure, own, protocol, they_dial::check_identify,
    with_strange_peer,
};

const DIRECTION: &str = "we-dial";

pub(crate) async fn cells(
    tally: &mut Tally,
    pair: &Pair,
) -> Result<(), barewire_tests::process::Failure> {
    let (listener, addr) = Process::listen(&pair.foreign, ["listen"], DEADLINE).await?;
    let addr = addr.as_str();
    let mut all = async |what: &str,
                         args: &[&str],
                         name: &str,
                         check: fn(&serde_json::Value) -> CellResult| {
        let mut line: Vec<&str> = args.to_vec();
        line.extend(["--json", "--timeout", "60", addr]);
        tally
            .cell(pair, DIRECTION, what, async {
                check(&run(&pair.barewire, &line, name, DEADLINE).await?)
            })
            .await;
    };
    all("identify", &["identify"], "identify", check_identify).await;
    all("ping", &["ping", "--count", "100"], "ping", ping_figures).await;
    all("echo 10 MiB", &["echo", "--size", "10MiB"], "echo", |_| {
        Ok("10 MiB compared".to_owned())
    })
    .await;
    all(
        "64 parallel streams",
        &[
            "bench",
            "streams",
            "--count",
            "64",
            "--concurrency",
            "64",
            "--size",
            "64KiB",
        ],
        "streams",
        rate,
    )
    .await;
    all(
        "perf up 256 MiB",
        &["perf", "--upload", "256MiB", "--download", "0"],
        "perf",
        upload,
    )
    .await;
    all(
        "perf down 256 MiB",
        &["perf", "--upload", "0", "--download", "256MiB"],
        "perf",
        download,
    )
    .await;

    tally
        .cell(pair, DIRECTION, "half close", half_close(addr))
        .await;
    tally
        .cell(pair, DIRECTION, "reset by them", reset_by_them(addr))
        .await;
    tally
        .cell(pair, DIRECTION, "reset by us", reset_by_us(pair))
        .await;
    tally
        .cell(pair, DIRECTION, "wrong peer id", wrong_peer(pair, addr))
        .await;
    tally
        .cell(pair, DIRECTION, "peer killed mid-stream", killed(pair))
        .await;
    if pair.stack == Foreign::Go {
        tally
            .cell(pair, DIRECTION, "early muxer", muxer(pair, &[], true))
            .await;
        tally
            .cell(
                pair,
                DIRECTION,
                "multistream muxer",
                muxer(pair, &["--no-early-muxer"], false),
            )
            .await;
    } else {
        tally
            .cell(
                pair,
                DIRECTION,
                "multistream muxer",
                muxer(pair, &[], false),
            )
            .await;
    }
    listener.stop(DEADLINE).await
}

pub(crate) fn ping_figures(event: &serde_json::Value) -> CellResult {
    ensure(number(event, "count")? >= 1.0, || {
        format!("no pings in {event}")
    })?;
    Ok(format!(
        "p50 {:.0} us, p99 {:.0} us",
        number(event, "p50_us")?,
        number(event, "p99_us")?
    ))
}

pub(crate) fn rate(event: &serde_json::Value) -> CellResult {
    ensure(number(event, "count")? == 64.0, || {
        format!("not 64 streams in {event}")
    })?;
    Ok(format!("{:.0} per s", number(event, "per_s")?))
}

pub(crate) fn upload(event: &serde_json::Value) -> CellResult {
    speed(event, "upload_bytes", "upload_s")
}

pub(crate) fn download(event: &serde_json::Value) -> CellResult {
    speed(event, "download_bytes", "download_s")
}

fn speed(event: &serde_json::Value, bytes: &str, secs: &str) -> CellResult {
    let count = number(event, bytes)?;
    ensure(count == f64::from(256 << 20), || {
        format!("not 256 MiB in {event}")
    })?;
    Ok(format!(
        "{:.0} MiB/s",
        count / number(event, secs)? / f64::from(1 << 20)
    ))
}

/// Data and end handed over together, often: some receivers take an end for the truth before they have read all.
async fn half_close(addr: &str) -> CellResult {
    let endpoint = own::endpoint().await?;
    let connection = endpoint.connect(addr.parse()?).await?;
    let mut payload = vec![0; 100_000];
    rand::rng().fill_bytes(&mut payload);
    let payload = Bytes::from(payload);
    for turn in 0..REPEATED {
        let mut stream = connection.open_stream(protocol::HALF_CLOSE).await?;
        stream.write_last(payload.clone()).await?;
        let back = timeout(DEADLINE, own::read_all(&mut stream, 1 << 20)).await??;
        ensure(back == payload, || {
            format!("{} other bytes came back in turn {turn}", back.len())
        })?;
    }
    Ok(format!("{REPEATED} times 100 kB came back after our end"))
}

async fn reset_by_them(addr: &str) -> CellResult {
    let endpoint = own::endpoint().await?;
    let connection = endpoint.connect(addr.parse()?).await?;
    let mut stream = connection.open_stream(protocol::RESET).await?;
    stream.write_chunk(Bytes::from_static(b"reset")).await?;
    let code = match timeout(DEADLINE, own::read_all(&mut stream, 1 << 20)).await? {
        Err(StreamError::Reset(code)) => code,
        other => return Err(format!("expected a reset, got {other:?}").into()),
    };
    let rtt = ping::ping(&connection, DEADLINE).await?;
    Ok(format!(
        "code {code:#x}; the connection lives: ping {} us",
        rtt.as_micros()
    ))
}

async fn reset_by_us(pair: &Pair) -> CellResult {
    let (mut listener, addr) = Process::listen(&pair.foreign, ["listen"], DEADLINE).await?;
    let endpoint = own::endpoint().await?;
    let connection = endpoint.connect(addr.parse()?).await?;
    own::open_hold(&connection).await?.reset(0);
    let lost = listener.expect("lost", DEADLINE).await?;
    let rtt = ping::ping(&connection, DEADLINE).await?;
    let said = format!(
        "they say `{}`; the connection lives: ping {} us",
        text(&lost, "error")?,
        rtt.as_micros()
    );
    listener.stop(DEADLINE).await?;
    Ok(said)
}

async fn wrong_peer(pair: &Pair, addr: &str) -> CellResult {
    let (actual, strange, wrong) = with_strange_peer(addr)?;
    let said = run_failing(
        &pair.barewire,
        ["ping", "--timeout", "60", &wrong],
        DEADLINE,
    )
    .await?;
    ensure(said.contains(&actual) && said.contains(&strange), || {
        format!("the error names not both {actual} and {strange}: {said}")
    })?;
    Ok(said.trim().to_owned())
}

async fn killed(pair: &Pair) -> CellResult {
    let (mut listener, addr) = Process::listen(&pair.foreign, ["listen"], DEADLINE).await?;
    let endpoint = own::endpoint().await?;
    let connection = endpoint.connect(addr.parse()?).await?;
    let mut stream = own::open_hold(&connection).await?;
    let start = Instant::now();
    listener.kill().await?;
    let Err(cause) = timeout(DEADLINE, own::read_all(&mut stream, 1 << 20)).await? else {
        return Err("the stream ended cleanly".into());
    };
    let reason = timeout(DEADLINE, connection.closed()).await?;
    Ok(format!(
        "stream: `{cause}`, connection: `{reason}`, after {} us",
        start.elapsed().as_micros()
    ))
}

async fn muxer(pair: &Pair, args: &[&str], early: bool) -> CellResult {
    let mut line = vec!["listen"];
    line.extend(args);
    let (listener, addr) = Process::listen(&pair.foreign, line, DEADLINE).await?;
    let endpoint = own::endpoint().await?;
    let connection = endpoint.connect(addr.parse()?).await?;
    let info = connection.info();
    ensure(info.early_muxer == early, || {
        format!("early_muxer is {}", info.early_muxer)
    })?;
    ensure(info.muxer == "/yamux/1.0.0", || {
        format!("the muxer is {}", info.muxer)
    })?;
    let rtt = ping::ping(&connection, DEADLINE).await?;
    let said = format!(
        "{} {}, ping {} us",
        info.security,
        info.muxer,
        rtt.as_micros()
    );
    listener.stop(DEADLINE).await?;
    Ok(said)
}
