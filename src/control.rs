//! What the local API steers: the engine, and the configuration that it runs with.

use crate::{
    config::{self, Changes, Config},
    local::Local,
    settings::{self, Setting},
};
use dosvc_content::DownloadMode;
use tokio::sync::Mutex;

/// The engine and the configuration in force. The lock is held while the engine takes a new configuration over, so
/// that two changes never mix.
pub(crate) struct Control<L> {
    engine: L,
    state: Mutex<State>,
}

struct State {
    /// As loaded.
    loaded: Config,
    /// Set through the API; outlives a reload, not a restart.
    mode: Option<DownloadMode>,
}

impl State {
    fn effective(&self) -> Config {
        let mut config = self.loaded.clone();
        if let Some(mode) = self.mode {
            settings::set_mode(&mut config, mode);
        }
        config
    }
}

impl<L: Local> Control<L> {
    pub(crate) fn new(engine: L, config: Config) -> Self {
        Self {
            engine,
            state: Mutex::new(State {
                loaded: config,
                mode: None,
            }),
        }
    }

    pub(crate) fn engine(&self) -> &L {
        &self.engine
    }

    /// Every setting in force.
    pub(crate) async fn settings(&self) -> Vec<Setting> {
        settings::all(&self.state.lock().await.effective())
    }

    /// Takes a newly loaded configuration over; answers with what differs from the one before, in two parts: what is
    /// in force now, what needs a restart.
    pub(crate) async fn reload(&self, config: Config) -> Changes {
        let mut state = self.state.lock().await;
        let before = state.effective();
        state.loaded = config;
        let now = state.effective();
        self.engine.reconfigure(&now).await;
        config::diff(&before, &now)
    }

    /// Sets the device's download mode until the daemon stops; answers with what needs a restart.
    pub(crate) async fn set_mode(&self, mode: DownloadMode) -> Vec<String> {
        let mut state = self.state.lock().await;
        state.mode = Some(mode);
        self.engine.reconfigure(&state.effective()).await
    }
}
