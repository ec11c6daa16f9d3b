//! Fetches a URL in ranges and says how long that took: `fetch URL [RANGE_BYTES] [LANES]`. The bytes are counted, not kept.

use std::error::Error;
use std::time::Instant;

use dosvc_origin::{OriginClient, OriginConfig, Url};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let url = Url::parse(
        &args
            .next()
            .ok_or("usage: fetch URL [RANGE_BYTES] [LANES]")?,
    )?;
    let step: u64 = args.next().map_or(Ok(16 << 20), |text| text.parse())?;
    let lanes: u64 = args.next().map_or(Ok(4), |text| text.parse())?;

    let started = Instant::now();
    let origin = OriginClient::new(OriginConfig::default()).open(vec![url], None);
    let total = origin.probe().await?.total;
    let mut tasks = JoinSet::new();
    for lane in 0..lanes {
        let origin = origin.clone();
        tasks.spawn(async move {
            let mut bytes = 0;
            let mut chunks = 0u64;
            for start in (lane * step..total).step_by(usize::try_from(lanes * step)?) {
                let mut body = origin.fetch(start..(start + step).min(total)).await?;
                while let Some(chunk) = body.chunk().await? {
                    bytes += chunk.len();
                    chunks += 1;
                }
            }
            Ok::<_, Box<dyn Error + Send + Sync>>((bytes, chunks))
        });
    }
    let (mut bytes, mut chunks) = (0, 0);
    while let Some(lane) = tasks.join_next().await {
        let (lane_bytes, lane_chunks) = lane??;
        bytes += lane_bytes;
        chunks += lane_chunks;
    }
    let elapsed = started.elapsed();
    let rate = bytes as f64 / elapsed.as_secs_f64() / 1e6;
    println!("{bytes} bytes in {elapsed:?}, {rate:.0} MB/s, {chunks} chunks");
    Ok(())
}
