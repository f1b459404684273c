//! Objects in use cannot be removed; locks that cannot be acquired; a switch that fails leaves the
//! thread where it was.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use abi::Errno;
use guests::findings::must;
use guests::place::{Place, enter, enter_within, go_home, recover, try_enter};
use guests::store::{base_of, sized};
use spacejmp::sys::{self, Right, SegId, VasHandle, VasId, attach, seg_command, vas_command};

use crate::Refusals;

pub(crate) fn provoke(r: &mut Refusals) {
    let vid = r.need("a VAS", sys::vas_create("busy", 0o600));
    let sid = r.need("a segment", sys::seg_alloc("busy", &sized(4096)));
    r.need("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    let vh = r.need("vas_attach", sys::vas_attach(vid, 0));

    r.refused("vas_delete while attached", sys::vas_delete(vid), Errno::EBUSY);
    r.refused("seg_delete while attached", sys::seg_delete(sid), Errno::EBUSY);
    let lockable = sys::seg_ctl(sid, seg_command::SET_LOCKABLE, 1);
    r.refused("SET_LOCKABLE while attached", lockable, Errno::EBUSY);
    inside(r, vid, sid, vh);
    another_inside(r, vid, sid, vh);
    locked(r, vh, sid);
    no_process(r, vh);

    r.need("vas_detach", sys::vas_detach(vh));
    r.need("vas_delete", sys::vas_delete(vid));
    r.need("seg_delete", sys::seg_delete(sid));
}

/// While the caller itself is inside.
fn inside(r: &mut Refusals, vid: VasId, sid: SegId, vh: VasHandle) {
    let local = r.need("one more segment", sys::seg_alloc("busy-local", &sized(4096)));
    r.need("locally attached", sys::seg_attach_local(vh, local, Right::Write));
    r.need("switch in", enter(vh));
    let word = Place::at(base_of(sid));
    word.write(17);
    in_use(r, "inside", vid, sid, vh);
    let detached = sys::seg_detach_local(vh, local);
    r.refused("seg_detach_local inside", detached, Errno::EBUSY);
    r.refused("a switch to nowhere", enter(VasHandle::from_raw(99)), Errno::EBADF);
    r.found.same("the thread stayed where it was", word.read(), 17);
    go_home();
    r.settle();
    r.need("seg_detach_local at home", sys::seg_detach_local(vh, local));
    r.need("it goes", sys::seg_delete(local));
}

/// Calls that are refused while any thread is inside.
fn in_use(r: &mut Refusals, who: &str, vid: VasId, sid: SegId, vh: VasHandle) {
    r.refused(&format!("vas_detach {who}"), sys::vas_detach(vh), Errno::EBUSY);
    r.refused(&format!("seg_detach {who}"), sys::seg_detach(vid, sid), Errno::EBUSY);
    r.refused(&format!("vas_delete {who}"), sys::vas_delete(vid), Errno::EBUSY);
    let tagged = sys::vas_ctl(vas_command::SET_INSTANCE_TAGGED, vh.raw(), 0);
    r.refused(&format!("SET_INSTANCE_TAGGED {who}"), tagged, Errno::EBUSY);
}

/// A thread that enters `vh`, and leaves when the sender is dropped.
fn visitor(vh: VasHandle) -> (mpsc::Sender<()>, thread::JoinHandle<()>) {
    let (leave, wait) = mpsc::channel::<()>();
    let (entered, is_in) = mpsc::channel();
    let visitor = thread::spawn(move || {
        must("the other thread's vas_switch", enter(vh));
        entered.send(()).expect("the main thread waits");
        // An error once the sender is gone, which is what this waits for.
        let _ = wait.recv();
        go_home();
    });
    is_in.recv().expect("the other thread came in");
    (leave, visitor)
}

fn another_inside(r: &mut Refusals, vid: VasId, sid: SegId, vh: VasHandle) {
    let (leave, other) = visitor(vh);
    in_use(r, "with another thread inside", vid, sid, vh);
    drop(leave);
    other.join().expect("the other thread ends");
}

fn locked(r: &mut Refusals, plain: VasHandle, plain_sid: SegId) {
    let mut params = sized(4096);
    params.lockable = 1;
    let vid = r.need("a VAS with a lock", sys::vas_create("busy-locked", 0o600));
    let sid = r.need("a lockable segment", sys::seg_alloc("busy-locked", &params));
    r.need("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    let vh = r.need("vas_attach", sys::vas_attach(vid, 0));
    let read_only = r.need("read-only", sys::vas_attach(vid, attach::READ_ONLY));

    let limit = Duration::from_millis(30);
    let (leave, other) = visitor(vh);
    r.refused("vas_try_switch", try_enter(vh), Errno::EAGAIN);
    r.refused("vas_try_switch to read", try_enter(read_only), Errno::EAGAIN);
    let began = Instant::now();
    r.refused("vas_switch_timeout", enter_within(vh, limit), Errno::ETIMEDOUT);
    r.found.check("not before its time", began.elapsed() >= limit);
    r.refused("no time at all", enter_within(vh, Duration::ZERO), Errno::ETIMEDOUT);
    let recovered = recover(sid);
    r.refused("RECOVER of another's lock", recovered, Errno::EPERM);
    // From inside another space: the thread stays there, and can use it.
    r.need("inside another VAS", enter(plain));
    r.refused("vas_try_switch from there", try_enter(vh), Errno::EAGAIN);
    Place::at(base_of(plain_sid)).write(5);
    r.found.same("the thread stayed there", sys::vas_current(), Ok(plain));
    go_home();
    r.settle();
    interrupted(r, plain, vh);
    drop(leave);
    other.join().expect("the other thread ends");
    r.found.same("free again", try_enter(vh), Ok(()));
    go_home();

    let (leave, other) = visitor(read_only);
    r.refused("vas_try_switch to write, with a reader", try_enter(vh), Errno::EAGAIN);
    r.found.same("readers do not keep readers out", try_enter(read_only), Ok(()));
    r.settle();
    let recovered = recover(sid);
    r.refused("RECOVER with a shared lock", recovered, Errno::EPERM);
    // A switch to write while another thread reads fails, and the shared lock is still held.
    r.refused("vas_try_switch from read to write", try_enter(vh), Errno::EAGAIN);
    r.found.same("the thread stayed a reader", sys::vas_current(), Ok(read_only));
    drop(leave);
    other.join().expect("the other thread ends");
    let writer = thread::spawn(move || try_enter(vh));
    let writer = writer.join().expect("the other thread ends");
    r.found.same("the shared lock was kept", writer, Err(Errno::EAGAIN));
    go_home();
    r.settle();

    r.need("vas_detach", sys::vas_detach(vh).and_then(|()| sys::vas_detach(read_only)));
    r.need("vas_delete", sys::vas_delete(vid));
    r.need("seg_delete", sys::seg_delete(sid));
}

/// A signal for a thread that waits for the lock of `taken`: at home, and inside `plain`.
fn interrupted(r: &mut Refusals, plain: VasHandle, taken: VasHandle) {
    use std::os::unix::thread::JoinHandleExt;
    static HANDLED: AtomicU32 = AtomicU32::new(0);
    extern "C" fn handler(_signal: i32) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler does only what a handler may.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
    let waiter = thread::spawn(move || {
        let at_home = (enter(taken), sys::vas_current());
        must("inside another VAS", enter(plain));
        let inside = (enter(taken), sys::vas_current());
        go_home();
        (at_home, inside)
    });
    while !waiter.is_finished() {
        thread::sleep(Duration::from_millis(20));
        // SAFETY: names a thread that has not been joined yet.
        unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGUSR1) };
    }
    let (at_home, inside) = waiter.join().expect("the other thread ends");
    r.refused("a signal for a waiting thread", at_home.0, Errno::EINTR);
    r.found.same("it stayed at home", at_home.1, Ok(VasHandle::HOME));
    r.refused("a signal for a waiting thread inside", inside.0, Errno::EINTR);
    r.found.same("it stayed there", inside.1, Ok(plain));
    r.found.check("the handler ran", HANDLED.load(Ordering::Relaxed) >= 2);
}

/// No new processes, inside a VAS or not.
fn no_process(r: &mut Refusals, vh: VasHandle) {
    let fork = || {
        // SAFETY: refused; if it were not, the child would end immediately below.
        match unsafe { libc::syscall(libc::SYS_fork) } {
            -1 => {
                let raw = std::io::Error::last_os_error().raw_os_error();
                Err(Errno::from_raw(raw.unwrap_or(0)))
            }
            0 => std::process::exit(9),
            child => Ok(child),
        }
    };
    r.refused("fork at home", fork(), Errno::ENOSYS);
    r.need("switch in", enter(vh));
    r.refused("fork inside", fork(), Errno::ENOSYS);
    go_home();
    r.settle();
}
