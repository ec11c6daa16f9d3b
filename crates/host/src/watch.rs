//! Notices that the machine has changed, without looking again and again: the kernel says so of links, addresses and
//! power supplies, NetworkManager of its connections, and of files whoever writes them.

use crate::{Connectivity, Root, lease, network_manager::NetworkManager};
use rustix::{
    fs::inotify,
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        socket_with,
    },
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of `linux/rtnetlink.h`. Routes are left out: a router
/// may have hundreds of thousands, and the default route changes with the links.
const ROUTE_GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// The kernel's own events; those of group 2 come from udev.
const UEVENT_GROUPS: u32 = 1;
/// Changes come in bursts: so long after the first one the machine is looked at.
const SETTLE: Duration = Duration::from_millis(500);
/// Folders in which files that matter appear, beside those of leases.
const FOLDERS: [&str; 3] = ["etc", "sys/class/power_supply", "sys/class/net"];
/// Longest message that is looked at.
const MESSAGE_BYTES: usize = 8192;

/// Everything that may say that the machine has changed. What the machine does not have (netlink in a sandbox,
/// inotify, a bus) says nothing.
#[derive(Debug)]
pub struct Changes {
    links: Option<AsyncFd<OwnedFd>>,
    devices: Option<AsyncFd<OwnedFd>>,
    files: Option<AsyncFd<OwnedFd>>,
    network_manager: Option<NetworkManager>,
}

impl Changes {
    /// Begins to listen. Needs tokio's I/O.
    pub async fn listen(root: &Root) -> Self {
        let available = |what: &str, made: io::Result<AsyncFd<OwnedFd>>| {
            made.inspect_err(
                |error| tracing::debug!(what, %error, "the kernel does not tell changes"),
            )
            .ok()
        };
        Self {
            links: available("links", netlink(None, ROUTE_GROUPS)),
            devices: available("devices", netlink(Some(KOBJECT_UEVENT), UEVENT_GROUPS)),
            files: available("files", watch_files(root)),
            network_manager: NetworkManager::connect(root).await,
        }
    }

    /// What NetworkManager says; nothing where there is none.
    pub async fn connectivity(&self) -> Connectivity {
        match &self.network_manager {
            Some(manager) => manager.ask().await,
            None => Connectivity::default(),
        }
    }

    /// Waits until something has changed and the changes have settled. Nothing is lost when the future is dropped
    /// before its end but a change that was being waited out: ask again soon.
    pub async fn changed(&mut self) {
        let Self {
            links,
            devices,
            files,
            network_manager,
        } = self;
        tokio::select! {
            () = readable(links.as_ref(), |_| true) => {}
            () = readable(devices.as_ref(), is_power) => {}
            () = readable(files.as_ref(), |_| true) => {}
            connected = manager_changed(network_manager) => if !connected {
                tracing::info!("the system bus is gone: NetworkManager is not asked any more");
                *network_manager = None;
            }
        }
        tokio::time::sleep(SETTLE).await;
        for source in [links, devices, files].into_iter().flatten() {
            while read(source.get_ref()).is_ok() {}
        }
    }
}

async fn manager_changed(manager: &mut Option<NetworkManager>) -> bool {
    match manager {
        Some(manager) => manager.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits for a message that counts.
async fn readable(source: Option<&AsyncFd<OwnedFd>>, counts: fn(&[u8]) -> bool) {
    let Some(source) = source else {
        return std::future::pending().await;
    };
    loop {
        match source.async_io(Interest::READABLE, read).await {
            Ok(message) if counts(&message) => return,
            Ok(_) => {}
            // Messages were lost because too many came: that is a change, too.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => return,
            Err(error) => {
                tracing::warn!(%error, "changes of the machine are not noticed any more");
                return std::future::pending().await;
            }
        }
    }
}

/// A message of the kernel about a power supply: texts with a NUL after each.
fn is_power(message: &[u8]) -> bool {
    message
        .split(|b| *b == 0)
        .any(|line| line == b"SUBSYSTEM=power_supply")
}

/// One message, or some events of files.
fn read(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut message = vec![0; MESSAGE_BYTES];
    let length = rustix::io::read(fd, &mut message)?;
    message.truncate(length);
    Ok(message)
}

/// No protocol is the one of routes (its number is 0).
fn netlink(protocol: Option<rustix::net::Protocol>, groups: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    wait_on(socket)
}

#[expect(
    deprecated,
    reason = "its successor is unsafe code, for the sake of types that change their descriptor; this one does not"
)]
fn wait_on(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

fn watch_files(root: &Root) -> io::Result<AsyncFd<OwnedFd>> {
    use inotify::WatchFlags;
    let watches = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events =
        WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ONLYDIR;
    let watch = |folder: &std::path::Path| match inotify::add_watch(watches.as_fd(), folder, events)
    {
        // What is not there cannot change; who installs it restarts the daemon.
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(()),
        Err(error) => Err(io::Error::from(error)),
    };
    for folder in lease::FOLDERS.into_iter().chain(FOLDERS) {
        watch(&root.path(folder))?;
    }
    // The kernel does not tell changes of its own files so, but those of a tree that stands for them are told.
    for supply in root.names("sys/class/power_supply") {
        watch(&root.path("sys/class/power_supply").join(supply))?;
    }
    wait_on(watches)
}
