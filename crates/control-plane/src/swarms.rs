//! Where a process has its swarms: in itself, or in a store that it shares with others.

use crate::{
    array::{Array, ArrayStats, Draw, GroupView, Seen, SwarmView},
    config::ControlPlaneConfig,
    remote::{RedisArray, RedisError, Unavailable},
    shared::seconds,
};
use dosvc_cloud_protocol::{JoinAnswer, JoinRequest};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The array of a process.
#[derive(Debug, Clone)]
pub(crate) enum Swarms {
    Embedded(Arc<Array>),
    Redis(Arc<RedisArray>),
}

/// What administrators see of the swarms.
#[derive(Debug, Default)]
pub(crate) struct Overview {
    pub(crate) stats: ArrayStats,
    pub(crate) swarms: Vec<SwarmView>,
    pub(crate) groups: Vec<GroupView>,
}

impl Swarms {
    pub(crate) async fn open(
        config: &ControlPlaneConfig,
        stop: CancellationToken,
    ) -> Result<Self, RedisError> {
        let limits = config.array.clone();
        if config.redis.servers.is_empty() || !config.has(crate::Service::Array) {
            return Ok(Self::Embedded(Arc::new(Array::new(limits))));
        }
        let array = RedisArray::open(&config.redis, limits, stop).await?;
        Ok(Self::Redis(Arc::new(array)))
    }

    /// The swarms in this process, which are lost with it unless they are written down.
    pub(crate) fn embedded(&self) -> Option<&Arc<Array>> {
        match self {
            Self::Embedded(array) => Some(array),
            Self::Redis(_) => None,
        }
    }

    /// Whether joins can be answered.
    pub(crate) fn is_up(&self) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::Redis(array) => array.is_up(),
        }
    }

    pub(crate) async fn join(
        &self,
        draw: Draw,
        seen: Seen,
        request: &JoinRequest,
    ) -> Result<JoinAnswer, Unavailable> {
        match self {
            Self::Embedded(array) => Ok(array.join(seconds(), draw, seen, request)),
            Self::Redis(array) => array.join(seconds(), draw, seen, request).await,
        }
    }

    /// Removes what nobody has renewed.
    pub(crate) async fn expire(&self) {
        match self {
            Self::Embedded(array) => {
                let array = array.clone();
                let expiring = tokio::task::spawn_blocking(move || array.expire(seconds()));
                let _ = expiring.await;
            }
            // Another process does it, or this one half a minute later.
            Self::Redis(array) => {
                let _ = array.expire(seconds()).await;
            }
        }
    }

    /// Counts, and the largest swarms and groups, so many of each at most; nothing when the store can't be asked.
    pub(crate) async fn overview(&self, rows: usize) -> Overview {
        match self {
            Self::Embedded(array) => {
                let array = array.clone();
                let looking = tokio::task::spawn_blocking(move || Overview {
                    stats: array.stats(),
                    swarms: if rows == 0 {
                        Vec::new()
                    } else {
                        array.largest_swarms(rows)
                    },
                    groups: if rows == 0 {
                        Vec::new()
                    } else {
                        array.largest_groups(rows)
                    },
                });
                looking.await.unwrap_or_default()
            }
            Self::Redis(array) => overview(array, rows).await.unwrap_or_default(),
        }
    }
}

async fn overview(array: &RedisArray, rows: usize) -> Result<Overview, Unavailable> {
    let stats = array.stats().await?;
    if rows == 0 {
        return Ok(Overview {
            stats,
            ..Overview::default()
        });
    }
    Ok(Overview {
        stats,
        swarms: array.largest_swarms(rows).await?,
        groups: array.largest_groups(rows).await?,
    })
}
