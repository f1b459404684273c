// An owner, or a pointer, is kept after leaving: an abort or a rollback may take back what it points to.
use std::cell::RefCell;
use std::sync::Mutex;

use spacejmp::{Error, Space, VBox, VPtr};

spacejmp::brand! { One<'v> => (Option<VBox<u64, One<'v>>>, Option<VPtr<u64, One<'v>>>) }

thread_local! {
    static OWNER: RefCell<Option<VBox<u64, One<'static>>>> = const { RefCell::new(None) };
}

static POINTER: Mutex<Option<VPtr<u64, One<'static>>>> = Mutex::new(None);

fn owner_from_an_abort(one: &Space<One<'_>>) {
    let mut kept = None;
    let _ = one.write(|v| {
        kept = Some(VBox::new(v, 7)?);
        Err::<(), _>(Error::NoRoot { space: String::new() })
    });
    drop(kept);
}

fn owner_that_is_taken(one: &Space<One<'_>>) {
    let kept = one.write(|v| Ok::<_, Error>(v.root_mut().0.0.take())).unwrap();
    drop(kept);
}

fn pointer_from_a_reader(one: &Space<One<'_>>) {
    let mut kept = None;
    one.read(|v| kept = v.root().1).unwrap();
    drop(kept);
}

fn pointer_brought_back(one: &Space<One<'_>>) {
    let pointer = one.read(|v| v.root().1).unwrap();
    let _ = one.read(|v| pointer.map(|pointer| *pointer.get(v)));
}

fn owner_in_a_thread_local(one: &Space<One<'_>>) {
    let _ = one.write(|v| {
        let owner = VBox::new(v, 7)?;
        OWNER.with_borrow_mut(|kept| *kept = Some(owner));
        Ok::<_, Error>(())
    });
}

fn pointer_in_a_static(one: &Space<One<'_>>) {
    let _ = one.read(|v| *POINTER.lock().unwrap() = v.root().1);
}

fn owner_in_a_leaked_box(one: &Space<One<'_>>) {
    let mut kept: Option<&'static mut Option<VBox<u64, One<'static>>>> = None;
    let _ = one.write(|v| {
        kept = Some(Box::leak(Box::new(v.root_mut().0.0.take())));
        Ok::<_, Error>(())
    });
}

fn owner_over_a_nested_visit(one: &Space<One<'_>>) {
    let _ = one.write(|v| {
        let mut kept = VBox::new(v, 7)?;
        v.read(one, |w| *kept.get(w))?;
        v.write(one, |w| {
            *kept.get_mut(w) = 1;
            Ok::<_, Error>(())
        })
    });
}

fn a_closure_for_one_lifetime(one: &Space<One<'static>>) {
    let visit: fn(&mut spacejmp::In<One<'static>, spacejmp::Read>) = |_| ();
    one.read(visit).unwrap();
}

fn main() {}
