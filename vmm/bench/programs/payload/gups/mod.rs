//! `gups`: random updates of a table that is cut into windows, one window reachable at a time.
//!
//! One updater draws a window, then a set of updates at random places in it, and so on (HPCC's
//! RandomAccess as the paper changed it). Only how a window is reached differs, an [`Engine`];
//! numbers, order and timing are the same for all, and so is the sum over the table at the end,
//! which reveals a lost or misplaced update.
//!
//! - [`plan`]: what is drawn, what is timed, the sum
//! - [`table`]: words of a window
//! - [`windows`]: everything mapped; an address space for each; one that is reattached
//! - [`remap`]: one range that is remapped with `mmap`
//! - [`messages`]: a party for each window, asked by messages: threads or processes

pub(crate) mod messages;
pub(crate) mod plan;
pub(crate) mod remap;
pub(crate) mod table;
pub(crate) mod windows;

use crate::json::Object;
use messages::{Messages, Wait, Who};
use plan::{Plan, drive};

/// A way of reaching a window.
pub(crate) trait Engine {
    /// Prepares the first `windows` windows; not timed.
    fn begin(&mut self, _windows: u32) -> Result<(), String> {
        Ok(())
    }

    /// Makes a set of updates in a window; they are done when it returns.
    fn apply(&mut self, window: u32, set: &[u64]) -> Result<(), String>;

    /// Removes what [`Engine::begin`] made; not timed.
    fn end(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// What a window adds to the sum over the table.
    fn window_sum(&mut self, window: u32) -> Result<u64, String>;

    /// Removes everything.
    fn close(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// The sum over the first `windows` windows, and the end of the engine.
    fn sum(&mut self, windows: u32) -> Result<u64, String> {
        let add = |sum: u64, window| Ok::<_, String>(sum.wrapping_add(self.window_sum(window)?));
        let sum = (0..windows).try_fold(0, add)?;
        self.close()?;
        Ok(sum)
    }
}

/// Runs the plan with the engine called `kind`.
pub(crate) fn run(kind: &str, plan: &Plan) -> Result<Object, String> {
    match kind {
        "flat" => drive(plan, &mut windows::Flat::new(plan)?),
        "switch" => drive(plan, &mut windows::Switched::new(plan)?),
        "attach" => drive(plan, &mut windows::Reattached::new(plan)?),
        "remap" => drive(plan, &mut remap::Remapped::new(plan, remap::When::Touched)?),
        "remap-populate" => drive(plan, &mut remap::Remapped::new(plan, remap::When::Mapped)?),
        "polled" => drive(plan, &mut Messages::new(plan, Who::Threads, Wait::Polling)?),
        "blocking" => drive(plan, &mut Messages::new(plan, Who::Threads, Wait::Sleeping)?),
        "polled-processes" => drive(plan, &mut Messages::new(plan, Who::Processes, Wait::Polling)?),
        "blocking-processes" => {
            drive(plan, &mut Messages::new(plan, Who::Processes, Wait::Sleeping)?)
        }
        _ => Err(format!("no way to reach a window is called {kind:?}")),
    }
}
