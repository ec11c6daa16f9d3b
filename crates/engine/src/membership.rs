//! What this machine proves to be a member of its group: the certificate and its key, how it comes to the next one in
//! time, and what others' are checked by.

use crate::{
    api::MembershipStatus,
    config::{EnrolmentSettings, MembershipSettings},
    engine::{EngineError, load_peer_id},
    shared::{Settings, Shared, lock},
};
use arc_swap::ArcSwapOption;
use dosvc_content::{GroupHash, PeerId};
use dosvc_discovery::cloud::{CloudError, EnrolError, EnrolRequest, Enrolment};
use dosvc_membership::{CertificateError, DeviceKey, KeyError, Trust, Verified};
use dosvc_wire::{Demand, GroupKey, member::Signed, net::Credentials};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    fmt, fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The folder in the state folder, and its files.
const FOLDER: &str = "membership";
const KEY_FILE: &str = "device.key";
const CERTIFICATE_FILE: &str = "certificate.pem";
/// What stands before the certificate: when the next one is to be asked for.
const RENEW: &str = "Renew: ";

/// The wait after a first failure; doubles up to the longest.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(900);
/// How often the file is looked at while there is no certificate that counts: `dosvc enrol` may write one.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Nothing is looked at more often, whatever lifetime the service gives its certificates.
const STEP_MIN: Duration = Duration::from_secs(1);

/// Why a machine did not enrol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Where key and certificate are kept.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// The machine's key.
    #[error("the device's key: {0}")]
    Key(#[from] KeyError),
    /// The peer id.
    #[error(transparent)]
    PeerId(#[from] EngineError),
    /// What the configuration lacks, or is wrong in it.
    #[error("{0}")]
    Settings(String),
    /// The service that issues certificates.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// Certificates of the service.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// What the service has issued does not count.
    #[error("the certificate that was issued: {0}")]
    Certificate(#[from] CertificateError),
    /// The work was cut off.
    #[error("the engine is stopping")]
    Stopping,
}

/// A certificate that this machine has, with its key.
pub(crate) struct Held {
    key: DeviceKey,
    der: Vec<u8>,
    /// In seconds since 1970.
    renew_at: u64,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

/// What a machine has to prove its membership with.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    held: ArcSwapOption<Held>,
    /// Why the last attempt to come by a certificate has failed.
    failure: Mutex<Option<String>>,
}

impl Membership {
    /// Reads what was kept.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let this = Self::default();
        this.read(state_dir);
        this
    }

    /// Takes over what stands in the files, if there is a certificate.
    fn read(&self, state_dir: &Path) {
        let files = Files::new(state_dir);
        match files.held() {
            Ok(Some(held)) => self.held.store(Some(Arc::new(held))),
            Ok(None) => {}
            Err(error) => self.fail(format!("what was kept cannot be read: {error}")),
        }
    }

    fn fail(&self, why: String) {
        *lock(&self.failure) = Some(why);
    }

    /// Why the last attempt to come by a certificate has failed.
    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// What our certificate says, if it counts.
    pub(crate) fn verified(
        &self,
        settings: &MembershipSettings,
    ) -> Option<Result<Verified, CertificateError>> {
        let trust = settings.trust.as_ref()?;
        let held = self.held.load_full()?;
        Some(trust.verify(&held.der, unix_now()))
    }

    /// The group as we prove to be of it, or why we can't.
    pub(crate) fn group_key(
        &self,
        settings: &MembershipSettings,
        group: GroupHash,
    ) -> Result<GroupKey, String> {
        let demand = settings.demand;
        if let Some(problem) = &settings.problem {
            return Err(problem.clone());
        }
        if demand == Demand::Secret && settings.secret.is_none() {
            return Err("group.secret_file is not set".to_owned());
        }
        if demand == Demand::Certificate {
            self.check_own(settings, &group)?;
        }
        Ok(match &settings.secret {
            Some(secret) => GroupKey::of_secret(group, demand, secret.bytes()),
            None => GroupKey::of_id(group, demand),
        })
    }

    fn check_own(&self, settings: &MembershipSettings, group: &GroupHash) -> Result<(), String> {
        if settings.trust.is_none() {
            return Err("group.authority_file is not set".to_owned());
        }
        let failure = || match self.failure() {
            Some(why) => format!(" (last attempt: {why})"),
            None => String::new(),
        };
        match self.verified(settings) {
            None => Err(format!("it has not enrolled{}", failure())),
            Some(Err(error)) => Err(format!("its certificate: {error}{}", failure())),
            Some(Ok(verified)) if !verified.groups.contains(group) => {
                Err("its certificate is for other groups".to_owned())
            }
            Some(Ok(_)) => Ok(()),
        }
    }

    /// Where this stands, for people.
    pub(crate) fn status(&self, settings: &MembershipSettings) -> Option<MembershipStatus> {
        let verified = match settings.demand {
            Demand::Id => return None,
            Demand::Secret => None,
            Demand::Certificate => self.verified(settings).and_then(Result::ok),
        };
        Some(MembershipStatus {
            proof: settings.demand.to_string(),
            not_after: verified.map(|verified| verified.not_after),
            failure: settings.problem.clone().or_else(|| self.failure()),
        })
    }

    /// What a proof by certificate needs.
    pub(crate) fn credentials(
        &self,
        settings: &MembershipSettings,
    ) -> Option<Arc<dyn Credentials>> {
        Some(Arc::new(Paper {
            held: self.held.load_full()?,
            trust: settings.trust.clone()?,
        }))
    }
}

/// Our certificate, and whose certificates count.
#[derive(Debug)]
struct Paper {
    held: Arc<Held>,
    trust: Arc<Trust>,
}

impl Credentials for Paper {
    fn certificate(&self) -> &[u8] {
        &self.held.der
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        self.held.key.sign(message).map_err(|e| e.to_string())
    }

    fn verify(
        &self,
        signed: &Signed,
        message: &[u8],
        peer: &PeerId,
        group: &GroupHash,
    ) -> Result<SystemTime, String> {
        let signed = (signed.certificate.as_slice(), signed.signature.as_slice());
        let verified = self
            .trust
            .verify_member(signed, message, (peer, group), unix_now());
        verified
            .map(|verified| UNIX_EPOCH + Duration::from_secs(verified.not_after))
            .map_err(|error| error.to_string())
    }
}

/// Keeps the certificate, while one is demanded: asks for the next one in time, and lets settings be looked at again when
/// it makes a difference.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut changes = shared.settings_changes();
    let mut attempts = Attempts::default();
    loop {
        changes.mark_unchanged();
        let settings = shared.settings();
        let wait = match settings.config.membership.demand {
            Demand::Certificate => tokio::select! {
                () = shared.cancel.cancelled() => return,
                wait = attempts.step(&shared, &settings) => Some(wait),
            },
            Demand::Id | Demand::Secret => None,
        };
        let sleep = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep => {}
        }
    }
}

/// When a service may be asked again.
#[derive(Debug)]
struct Attempts {
    next: Instant,
    backoff: Duration,
    /// What the last attempt was made with.
    by: Option<EnrolmentSettings>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            next: Instant::now(),
            backoff: BACKOFF_FIRST,
            by: None,
        }
    }
}

impl Attempts {
    /// Does what is due; answers with how long nothing is.
    async fn step(&mut self, shared: &Shared, settings: &Settings) -> Duration {
        let members = &shared.membership;
        let wanted = &settings.config.membership;
        if self.by != wanted.enrolment {
            *self = Self {
                by: wanted.enrolment.clone(),
                ..Self::default()
            };
        }
        members.read(&settings.config.state_dir);
        let renewal = || {
            let at = members.held.load().as_ref().map_or(0, |held| held.renew_at);
            Duration::from_secs(at.saturating_sub(unix_now()))
        };
        let counts = || matches!(members.verified(wanted), Some(Ok(_)));
        if (renewal().is_zero() || !counts()) && self.next <= Instant::now() {
            self.ask(members, settings).await;
        }
        // What follows from it is looked at now, and when it ends.
        shared.look.notify_one();
        let attempt = self.next.saturating_duration_since(Instant::now());
        let wait = match members.verified(wanted) {
            Some(Ok(verified)) => {
                let left = verified.not_after.saturating_sub(unix_now()) + 1;
                renewal().max(attempt).min(Duration::from_secs(left))
            }
            _ => attempt,
        };
        let group = settings.group_id.as_ref().map(|group| group.id.hash());
        match group.is_some_and(|group| members.group_key(wanted, group).is_err()) {
            true => wait.min(LOOK_INTERVAL),
            false => wait,
        }
        .max(STEP_MIN)
    }

    async fn ask(&mut self, members: &Membership, settings: &Settings) {
        match obtain(&settings.config.state_dir, &settings.config.membership).await {
            Ok(held) => {
                let renewal = held.renew_at.saturating_sub(unix_now());
                tracing::info!(renewal, "a certificate of the group's authority is here");
                *lock(&members.failure) = None;
                members.held.store(Some(Arc::new(held)));
                self.backoff = BACKOFF_FIRST;
                self.next = Instant::now();
            }
            Err(error) => {
                let text = error.to_string();
                if members.failure().as_ref() != Some(&text) {
                    tracing::warn!(%error, "no certificate of the group's authority");
                }
                members.fail(text);
                self.next = Instant::now() + jittered(self.backoff);
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Asks for a certificate: as a device that has enrolled, else with the token.
async fn obtain(state_dir: &Path, wanted: &MembershipSettings) -> Result<Held, MembershipError> {
    let Some(enrolment) = &wanted.enrolment else {
        let why = "nobody is known who issues certificates: set group.enrolment_url";
        return Err(MembershipError::Settings(why.to_owned()));
    };
    let known = Files::new(state_dir).certificate_file().exists();
    let renewed = match known {
        true => enrol(state_dir, wanted, enrolment, None).await,
        false => Err(MembershipError::Settings("it has not enrolled".to_owned())),
    };
    match (renewed, &enrolment.token_file) {
        (Ok(held), _) => Ok(held),
        // Only a refusal, or never having enrolled, is a reason to use the token.
        (Err(error), None) => Err(error),
        (Err(error @ MembershipError::Enrol(EnrolError::Failed(_))), _) => Err(error),
        (Err(_), Some(file)) => {
            let token = read_token(file)?;
            enrol(state_dir, wanted, enrolment, Some(token)).await
        }
    }
}

/// The enrolment token in a file.
fn read_token(path: &Path) -> Result<String, MembershipError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| MembershipError::Io(path.to_owned(), error))?;
    Ok(text.trim().to_owned())
}

/// Gets this machine a certificate with an enrolment token and keeps it, as the daemon does; answers with what it says.
/// Key and peer id are made when they are missing. Blocks shortly.
///
/// # Errors
/// [`MembershipError`].
pub async fn enrol_device(
    state_dir: &Path,
    settings: &MembershipSettings,
    enrolment: &EnrolmentSettings,
    token: Option<String>,
) -> Result<Verified, MembershipError> {
    let held = enrol(state_dir, settings, enrolment, token).await?;
    Ok(trust(settings)?.verify(&held.der, unix_now())?)
}

fn trust(settings: &MembershipSettings) -> Result<&Trust, MembershipError> {
    let missing = || {
        let why = "set group.authority_file to the certificate of the group's authority (dosvc control-plane authority)";
        MembershipError::Settings(settings.problem.clone().unwrap_or_else(|| why.to_owned()))
    };
    settings.trust.as_deref().ok_or_else(missing)
}

async fn enrol(
    state_dir: &Path,
    settings: &MembershipSettings,
    enrolment: &EnrolmentSettings,
    token: Option<String>,
) -> Result<Held, MembershipError> {
    let trust = trust(settings)?;
    let files = Files::new(state_dir);
    let folder = state_dir.to_owned();
    let prepared = tokio::task::spawn_blocking(move || {
        // Somebody may enrol before the daemon has ever run.
        fs::create_dir_all(&folder).map_err(|error| MembershipError::Io(folder.clone(), error))?;
        let peer_id = load_peer_id(&folder)?;
        let key = Files::new(&folder).key()?;
        Ok::<_, MembershipError>((peer_id, key.request(&peer_id)?, key))
    });
    let (peer_id, request, key) = prepared.await.map_err(|_| MembershipError::Stopping)??;
    let service = Enrolment::new(enrolment.url.clone(), enrolment.ca_file.as_deref())?;
    let request = EnrolRequest {
        token,
        peer_id,
        request,
    };
    let answer = service.ask(&request).await?;
    let verified = trust.verify(&answer.certificate, unix_now())?;
    if verified.peer != peer_id || verified.public_key != key.public_key() {
        return Err(CertificateError::Peer.into());
    }
    // Not all at the same moment: the machines of a fleet may have enrolled at once.
    let renewal = jittered(Duration::from_secs(answer.renew_in_seconds.into()));
    let held = Held {
        key,
        der: answer.certificate,
        renew_at: unix_now() + renewal.as_secs(),
    };
    files.write(&held)?;
    Ok(held)
}

/// Nine to ten tenths of it.
fn jittered(time: Duration) -> Duration {
    let mut random = [0; 2];
    if getrandom::fill(&mut random).is_err() {
        return time;
    }
    let part = f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX);
    time.mul_f64(0.9 + 0.1 * part)
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Key and certificate on disk, which nobody else may read.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn new(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join(FOLDER),
        }
    }

    fn certificate_file(&self) -> PathBuf {
        self.folder.join(CERTIFICATE_FILE)
    }

    /// The machine's key; made when there is none.
    fn key(&self) -> Result<DeviceKey, MembershipError> {
        let path = self.folder.join(KEY_FILE);
        match fs::read_to_string(&path) {
            Ok(pem) => Ok(DeviceKey::from_pem(&pem)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = DeviceKey::generate()?;
                self.replace(&path, &key.to_pem())?;
                Ok(key)
            }
            Err(error) => Err(MembershipError::Io(path, error)),
        }
    }

    /// What was kept; `None`: no certificate.
    fn held(&self) -> Result<Option<Held>, MembershipError> {
        let path = self.certificate_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(MembershipError::Io(path, error)),
        };
        let renew_at = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix(RENEW));
        let certificate = CertificateDer::from_pem_slice(text.as_bytes());
        let certificate = certificate
            .map_err(|error| MembershipError::Io(path, io::Error::other(error.to_string())))?;
        Ok(Some(Held {
            key: self.key()?,
            der: certificate.to_vec(),
            renew_at: renew_at.and_then(|at| at.parse().ok()).unwrap_or(0),
        }))
    }

    fn write(&self, held: &Held) -> Result<(), MembershipError> {
        let pem = dosvc_membership::certificate_pem(&held.der);
        let text = format!("{RENEW}{}\n{pem}", held.renew_at);
        self.replace(&self.certificate_file(), &text)
    }

    /// Writes a file whole, or not at all.
    fn replace(&self, path: &Path, text: &str) -> Result<(), MembershipError> {
        let failed = |error| MembershipError::Io(path.to_owned(), error);
        let mut folder = fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(&self.folder).map_err(failed)?;
        let state_dir = self.folder.parent().unwrap_or(&self.folder);
        give_to_owner_of(state_dir, &self.folder).map_err(failed)?;
        let fresh = path.with_extension("new");
        // Left over from a crash, perhaps.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| give_to_owner_of(state_dir, &fresh))
            .and_then(|()| fs::rename(&fresh, path))
            .map_err(failed)
    }
}

/// What root writes for the daemon belongs to the daemon's user.
fn give_to_owner_of(folder: &Path, path: &Path) -> io::Result<()> {
    let (folder, found) = (fs::metadata(folder)?, fs::metadata(path)?);
    if folder.uid() == found.uid() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(folder.uid()), Some(folder.gid()))
}
