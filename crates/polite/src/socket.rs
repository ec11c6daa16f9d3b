//! What the kernel knows of a TCP connection, and what it can be told about it. Linux only; elsewhere all of it is
//! [`ErrorKind::Unsupported`](std::io::ErrorKind::Unsupported).

use std::io;
use std::time::Duration;

#[cfg(target_os = "linux")]
pub use linux::{
    BorrowedSocket, facts, headers, receive_memory, set_acknowledging, set_first_receive_room,
    set_lower_effort, set_pacing_rate, set_receive_room, set_room_kept, set_window_clamp,
};
#[cfg(not(target_os = "linux"))]
pub use other::{
    BorrowedSocket, facts, headers, receive_memory, set_acknowledging, set_first_receive_room,
    set_lower_effort, set_pacing_rate, set_receive_room, set_room_kept, set_window_clamp,
};

/// The lower-effort class, DSCP 000001 (RFC 8622), as it stands in the field of IPv4 and IPv6.
const LOWER_EFFORT: u32 = 0b0000_0100;

/// A part of `struct tcp_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFacts {
    /// Whether both ends send timestamps; without them [`Self::receive_rtt`] never goes up.
    pub timestamps: bool,
    /// Bytes of a full segment that we send.
    pub send_segment: u32,
    /// Bytes of a full segment that we may get.
    pub receive_segment: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Bytes in the socket that have not been sent.
    pub unsent: u32,
    /// Smoothed round trip time of what we send.
    pub rtt: Duration,
    /// Round trip time of what we receive: from an acknowledgement of ours to the first data that answers it.
    pub receive_rtt: Duration,
    /// The least of [`Self::rtt`]'s samples in the last minutes, the connection's handshake among them. Zero: none.
    pub min_rtt: Duration,
    /// Segments sent again.
    pub retransmitted: u32,
    /// Bytes of ours that were acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Segments received out of order: the first sign of a loss.
    pub out_of_order: u32,
    /// Bytes of content sent, those that were sent again included.
    pub bytes_sent: u64,
    /// Segments sent, acknowledgements too.
    pub segments_sent: u32,
    /// Segments received, acknowledgements too.
    pub segments_received: u32,
    /// Bytes that the other end may send at once: the window that it was offered. `None` before Linux 6.2.
    pub offered: Option<u32>,
}

/// How much of the system's memory waits to be read, and how much may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveMemory {
    /// What is taken, the system's own structures included: often the double of the bytes that wait, or more.
    pub used: u32,
    /// What may be taken.
    pub room: u32,
}

impl TcpFacts {
    /// Reads what the kernel gave; fields that an old kernel doesn't have are 0.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    fn parse(info: &[u8; INFO_LEN]) -> Self {
        let u32_at = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&info[at..at + 4]);
            u32::from_ne_bytes(bytes)
        };
        let u64_at = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&info[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        let time_at = |at: usize| Duration::from_micros(u32_at(at).into());
        // Offsets in `struct tcp_info` (include/uapi/linux/tcp.h), to which fields are only ever appended.
        Self {
            timestamps: info[5] & 1 != 0,
            send_segment: u32_at(16),
            receive_segment: u32_at(84),
            unacked: u32_at(24),
            unsent: u32_at(144),
            rtt: time_at(68),
            receive_rtt: time_at(92),
            retransmitted: u32_at(100),
            bytes_acked: u64_at(120),
            bytes_received: u64_at(128),
            min_rtt: match u32_at(148) {
                u32::MAX => Duration::ZERO,
                us => Duration::from_micros(us.into()),
            },
            out_of_order: u32_at(224),
            bytes_sent: u64_at(200),
            segments_sent: u32_at(136),
            segments_received: u32_at(140),
            // A window of nothing can't be told from a field that isn't there; `facts` knows.
            offered: Some(u32_at(232)),
        }
    }
}

/// As much of `struct tcp_info` as is read.
const INFO_LEN: usize = OFFERED_END;
/// Where [`TcpFacts::offered`] ends.
const OFFERED_END: usize = 236;

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "no safe crate reads TCP_INFO, sets these options, or duplicates a descriptor by its number"
)]
mod linux {
    use super::{INFO_LEN, LOWER_EFFORT, OFFERED_END, ReceiveMemory, TcpFacts, io};
    use socket2::SockRef;
    use std::ffi::{c_int, c_void};
    use std::os::fd::{AsRawFd, BorrowedFd};

    /// From asm-generic/socket.h.
    const SO_BUF_LOCK: c_int = 72;
    const SO_MEMINFO: c_int = 55;
    /// From linux/socket.h: the receive buffer keeps its size. (Nobody here sets the send buffer's.)
    const SOCK_RCVBUF_LOCK: c_int = 2;

    /// A socket that somebody else owns.
    pub type BorrowedSocket<'a> = BorrowedFd<'a>;

    /// Reads the connection's facts.
    ///
    /// # Errors
    /// What getsockopt(2) says; `InvalidData` when it gives less than every kernel since 4.9 does.
    pub fn facts(socket: BorrowedFd<'_>) -> io::Result<TcpFacts> {
        /// Up to `tcpi_min_rtt`.
        const LEN_MIN: usize = 152;
        let mut info = [0u8; INFO_LEN];
        let mut len = libc::socklen_t::try_from(INFO_LEN).expect("a few hundred");
        // SAFETY: `info` has room for `len` bytes, both outlive the call, and any bytes are a valid array.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast::<c_void>(),
                &raw mut len,
            )
        };
        check(result)?;
        let len = usize::try_from(len).unwrap_or(0);
        if len < LEN_MIN {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut facts = TcpFacts::parse(&info);
        facts.offered = facts.offered.filter(|_| len >= OFFERED_END);
        Ok(facts)
    }

    /// Bytes of headers that each segment of a connection has on Ethernet, as an interface counts them: of the link,
    /// of IP, and of TCP without its options.
    ///
    /// # Errors
    /// What getpeername(2) says; the connection may be over.
    pub fn headers(socket: BorrowedFd<'_>) -> io::Result<u32> {
        const ETHERNET: u32 = 14;
        const TCP: u32 = 20;
        let peer = SockRef::from(&socket).peer_addr()?.as_socket();
        let is_v4 = peer.is_some_and(|peer| peer.ip().to_canonical().is_ipv4());
        Ok(ETHERNET + if is_v4 { 20 } else { 40 } + TCP)
    }

    /// Offers the other end a window of at most so many bytes, or as many as the kernel likes; what was offered already
    /// stays so.
    ///
    /// The kernel raises this bound whenever it makes the receive buffer larger, from which [`set_room_kept`] keeps it;
    /// else this is to be called again and again.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_window_clamp(socket: BorrowedFd<'_>, bytes: Option<u32>) -> io::Result<()> {
        // Past the largest window of TCP there is no difference.
        let value = bytes.and_then(|bytes| c_int::try_from(bytes).ok());
        let value = value.unwrap_or(c_int::MAX).min(1 << 30);
        set(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, &value)
    }

    /// Keeps the system from making the receive buffer larger, or no more. Does nothing before Linux 5.14.
    pub fn set_room_kept(socket: BorrowedFd<'_>, on: bool) {
        let lock: c_int = if on { SOCK_RCVBUF_LOCK } else { 0 };
        // Older kernels don't know it.
        let _ = set(socket, libc::SOL_SOCKET, SO_BUF_LOCK, &lock);
    }

    /// What waits in the socket to be read, and what may.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn receive_memory(socket: BorrowedFd<'_>) -> io::Result<ReceiveMemory> {
        /// Of `SK_MEMINFO_*` (linux/sock_diag.h): the first two are ours.
        const NUMBERS: usize = 9;
        let mut numbers = [0u32; NUMBERS];
        let mut len = libc::socklen_t::try_from(size_of_val(&numbers)).expect("a few");
        // SAFETY: `numbers` has room for `len` bytes, both outlive the call, and any bytes are valid numbers.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                numbers.as_mut_ptr().cast::<c_void>(),
                &raw mut len,
            )
        };
        check(result)?;
        Ok(ReceiveMemory {
            used: numbers[0],
            room: numbers[1],
        })
    }

    /// Lets so much memory be taken by what waits to be read, or as much as the system allows, and keeps it so as
    /// [`set_room_kept`] does.
    ///
    /// A window alone doesn't bound what waits: it is offered anew for every byte that arrives, read or not.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_receive_room(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
        // The kernel takes the double of what it is told.
        let half = c_int::try_from(bytes / 2).unwrap_or(c_int::MAX);
        // Past the limit for all, if we may.
        set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &half)
            .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &half))
    }

    /// The same for a socket that is not connected yet: nothing can come before the bound. The window can be made
    /// larger later on, as large as any other's. Does nothing before Linux 5.14, where it could not.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_first_receive_room(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
        let unlock = || set(socket, libc::SOL_SOCKET, SO_BUF_LOCK, &0);
        if unlock().is_err() {
            return Ok(());
        }
        set_receive_room(socket, bytes)?;
        // A connection that begins with a buffer of a fixed size never scales its window beyond that.
        unlock()
    }

    /// Acknowledges what comes as it comes although nobody reads, or leaves that to the kernel. For a socket whose room is
    /// bounded; it stays so.
    ///
    /// The kernel holds an acknowledgement back while the window shrinks, for whoever reads will soon open it again. A
    /// reader that waits for a limit does not, and a sender near by that hears nothing for two milliseconds sends its last
    /// segment again. While this is on, the socket hardly ever counts as readable.
    ///
    /// # Errors
    /// What setsockopt(2) and getsockopt(2) say.
    pub fn set_acknowledging(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
        let low_water = |bytes: c_int| set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &bytes);
        if !on {
            return low_water(1);
        }
        // As long as fewer bytes wait than somebody wants to be woken for, the kernel acknowledges every other segment.
        // To a buffer of a fixed size it allows no more than half of that, less than fits; another it makes larger.
        let room = receive_memory(socket)?.room;
        set_room_kept(socket, false);
        low_water(c_int::try_from(room).unwrap_or(c_int::MAX))?;
        set_receive_room(socket, room)?;
        // What is held back now.
        set(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, &1)
    }

    /// Sends at most so many bytes a second; `None` takes the limit away. The kernel paces by itself or leaves it to
    /// the `fq` queue.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_pacing_rate(
        socket: BorrowedFd<'_>,
        bytes_per_second: Option<u64>,
    ) -> io::Result<()> {
        let value = bytes_per_second.unwrap_or(u64::MAX);
        set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &value)
    }

    fn set<T: Copy>(
        socket: BorrowedFd<'_>,
        level: c_int,
        name: c_int,
        value: &T,
    ) -> io::Result<()> {
        let len = libc::socklen_t::try_from(size_of::<T>()).expect("a number's size");
        // SAFETY: `value` is `len` readable bytes (an integer, without padding) and outlives the call.
        let result = unsafe {
            let value = (&raw const *value).cast::<c_void>();
            libc::setsockopt(socket.as_raw_fd(), level, name, value, len)
        };
        check(result)
    }

    /// Marks what is sent with the lower-effort class, or with none.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_lower_effort(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
        let field = if on { LOWER_EFFORT } else { 0 };
        let socket = SockRef::from(&socket);
        if socket.domain()? == socket2::Domain::IPV6 {
            // A peer with an IPv4 address on an IPv6 socket takes its class from the other option; who has no IPv4
            // refuses it.
            let _ = socket.set_tos_v4(field);
            return socket.set_tclass_v6(field);
        }
        socket.set_tos_v4(field)
    }

    fn check(result: c_int) -> io::Result<()> {
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::io::{Read, Write};
        use std::net::{TcpListener, TcpStream};
        use std::os::fd::AsFd;
        use std::time::Duration;

        fn pair(host: &str) -> (TcpStream, TcpStream) {
            let listener = TcpListener::bind((host, 0)).expect("loopback");
            let address = listener.local_addr().expect("bound");
            let client = TcpStream::connect(address).expect("listening");
            (client, listener.accept().expect("connected").0)
        }

        #[test]
        fn facts_count_what_went_through() {
            let (mut client, mut server) = pair("127.0.0.1");
            server.write_all(&[7; 100_000]).expect("room");
            let mut bytes = vec![0; 100_000];
            client.read_exact(&mut bytes).expect("sent");
            client.write_all(b"thanks").expect("room");
            server.read_exact(&mut bytes[..6]).expect("sent");
            let received = facts(client.as_fd()).expect("a TCP socket");
            assert_eq!(received.bytes_received, 100_000);
            assert!(received.receive_segment > 500, "{received:?}");
            let sent = facts(server.as_fd()).expect("a TCP socket");
            assert_eq!((sent.bytes_received, sent.unacked), (6, 0));
            assert!((100_000..=100_001).contains(&sent.bytes_acked), "{sent:?}");
            assert!(sent.rtt > Duration::ZERO && sent.min_rtt > Duration::ZERO);
        }

        #[test]
        fn options_are_taken_on_both_families() {
            for (host, v6) in [("127.0.0.1", false), ("::1", true)] {
                let (client, _server) = pair(host);
                let fd = client.as_fd();
                set_window_clamp(fd, Some(10_000)).expect("any number");
                set_window_clamp(fd, Some(u32::MAX)).expect("any number");
                set_window_clamp(fd, None).expect("any number");
                set_pacing_rate(fd, Some(1_000_000)).expect("any number");
                set_pacing_rate(fd, None).expect("any number");
                let class = || {
                    let socket = SockRef::from(&client);
                    if v6 {
                        socket.tclass_v6()
                    } else {
                        socket.tos_v4()
                    }
                };
                set_lower_effort(fd, true).expect("no privilege needed");
                assert_eq!(class().expect("an IP socket"), 4);
                set_lower_effort(fd, false).expect("no privilege needed");
                assert_eq!(class().expect("an IP socket"), 0);
            }
        }

        /// A window is offered for every byte that arrives; only the buffer bounds what nobody reads.
        #[test]
        fn no_more_than_the_room_waits_to_be_read_and_it_can_be_given_back() {
            const ROOM: u32 = 256 << 10;
            let (client, server) = pair("127.0.0.1");
            let before = receive_memory(client.as_fd()).expect("a TCP socket").room;
            set_receive_room(client.as_fd(), ROOM).expect("any number");
            let waiting = fill(&server, &client);
            assert!(waiting <= u64::from(ROOM), "{waiting}");
            let memory = receive_memory(client.as_fd()).expect("a TCP socket");
            assert!(
                memory.room == ROOM && u64::from(memory.used) >= waiting,
                "{memory:?} of {waiting}"
            );
            set_receive_room(client.as_fd(), before).expect("any number");
            let memory = receive_memory(client.as_fd()).expect("a TCP socket");
            assert_eq!(memory.room, before);
        }

        #[test]
        fn first_room_bounds_what_comes_at_once_and_not_for_ever() {
            const ROOM: u32 = 32 << 10;
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
            let address = listener.local_addr().expect("bound");
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.expect("a socket");
            set_first_receive_room(socket.as_fd(), ROOM).expect("any number");
            socket.connect(&address.into()).expect("listening");
            let client = TcpStream::from(socket);
            let server = listener.accept().expect("connected").0;
            let waiting = fill(&server, &client);
            assert!(waiting <= u64::from(ROOM), "{waiting}");
            set_receive_room(client.as_fd(), 1 << 20).expect("any number");
            set_room_kept(client.as_fd(), false);
            set_window_clamp(client.as_fd(), None).expect("any number");
            server.set_nonblocking(false).expect("a socket");
            let sender = std::thread::spawn(move || (&server).write_all(&[7; 8 << 20]));
            let mut bytes = vec![0; 64 << 10];
            let mut offered = 0;
            for _ in 0..64 {
                (&client).read_exact(&mut bytes).expect("it comes");
                offered = offered.max(facts(client.as_fd()).expect("open").offered.unwrap_or(0));
            }
            assert!(offered > 2 * ROOM, "{offered}");
            drop(client);
            let _cut_off = sender.join().expect("no panic");
        }

        /// Sends what goes, and says how much of it has come.
        fn fill(server: &TcpStream, client: &TcpStream) -> u64 {
            server.set_nonblocking(true).expect("a socket");
            // A sender's own buffer is no part of it.
            SockRef::from(server)
                .set_send_buffer_size(1 << 22)
                .expect("any number");
            let mut sent = 0;
            while let Ok(n) = (&mut &*server).write(&[7; 64 << 10]) {
                sent += n;
            }
            assert!(sent > 1 << 20, "{sent}: the test needs more");
            std::thread::sleep(Duration::from_millis(50));
            facts(client.as_fd()).expect("a TCP socket").bytes_received
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::{ReceiveMemory, TcpFacts, io};
    use std::marker::PhantomData;

    /// A socket that somebody else owns.
    #[derive(Debug, Clone, Copy)]
    pub struct BorrowedSocket<'a>(PhantomData<&'a ()>);
    /// Unsupported.
    pub fn facts(_: BorrowedSocket<'_>) -> io::Result<TcpFacts> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unsupported.
    pub fn set_window_clamp(_: BorrowedSocket<'_>, _: Option<u32>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unsupported.
    pub fn headers(_: BorrowedSocket<'_>) -> io::Result<u32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unsupported: does nothing.
    pub fn set_room_kept(_: BorrowedSocket<'_>, _: bool) {}

    /// Unsupported.
    pub fn receive_memory(_: BorrowedSocket<'_>) -> io::Result<ReceiveMemory> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unsupported.
    pub fn set_receive_room(_: BorrowedSocket<'_>, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unsupported.
    pub fn set_first_receive_room(_: BorrowedSocket<'_>, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unsupported.
    pub fn set_acknowledging(_: BorrowedSocket<'_>, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unsupported.
    pub fn set_pacing_rate(_: BorrowedSocket<'_>, _: Option<u64>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Unsupported.
    pub fn set_lower_effort(_: BorrowedSocket<'_>, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
