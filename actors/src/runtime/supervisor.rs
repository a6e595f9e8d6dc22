//! Supervision: a panic or a stop of an actor is one restart of that actor, and nothing else.
//!
//! actix's own supervisor restarts an actor that stops, but a panic in a handler ends the supervisor too, and with it
//! every address. This one polls the actor's context inside `catch_unwind`. What survives: the address, the
//! mailbox, the messages waiting in it. What does not: the message that panicked (its sender sees its reply
//! dropped) and the actor's state, which `Supervised::restarting` builds anew from its specification.
//!
//! State story: `Starting` → `Running` → (panic or stop) `Restarting` for a jittered back-off → `Running`. More than
//! [`RestartPolicy::restarts_max`] within the window → `Failed`: retried all the same, at the slowest rate, until a window
//! passes without a death. `Ended`
//! only by [`Child::end`].

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker, ready},
    time::Duration,
};

use actix::{
    Actor, Addr, ArbiterHandle, Context, Supervised,
    dev::{ContextFut, channel},
};
use tokio::time::{Instant, Sleep};

use super::{
    backoff::Backoff,
    fault::Fault,
    mailbox::Mailbox,
    metrics::{ActorMetrics, Probe},
};

/// How an actor is brought back.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// Wait before the first restart.
    pub backoff_min: Duration,
    /// The longest wait, and the rate at which a failed actor is retried.
    pub backoff_max: Duration,
    /// Restarts within the window after which the actor counts as failed.
    pub restarts_max: usize,
    /// The window.
    pub window: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

/// Where a child stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ChildState {
    /// Its thread has not polled it yet.
    Starting = 0,
    /// It handles messages.
    Running = 1,
    /// It waits for its restart.
    Restarting = 2,
    /// Its restart budget is spent; it is retried at the slowest rate.
    Failed = 3,
    /// It was ended, or its thread is gone.
    Ended = 4,
}

impl ChildState {
    /// For people and for JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
            Self::Ended => "ended",
        }
    }

    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Starting,
            1 => Self::Running,
            2 => Self::Restarting,
            3 => Self::Failed,
            _ => Self::Ended,
        }
    }
}

/// A supervised actor, whatever its type: state, restarts, faults, end.
#[derive(Debug, Clone)]
pub struct Child {
    name: Arc<str>,
    control: Arc<Control>,
    probe: Probe,
}

#[derive(Debug)]
struct Control {
    state: AtomicU8,
    orders: Mutex<Orders>,
}

#[derive(Debug, Default)]
struct Orders {
    fault: Option<Fault>,
    end: bool,
    waker: Option<Waker>,
}

// === impl Child ===

impl Child {
    /// The actor's name, as in metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands.
    pub fn state(&self) -> ChildState {
        ChildState::from_u8(self.control.state.load(Ordering::Acquire))
    }

    /// Restarts so far.
    pub fn restarts(&self) -> u64 {
        self.probe.restarts()
    }

    /// Messages handled so far.
    pub fn handled(&self) -> u64 {
        self.probe.handled()
    }

    /// Messages waiting in its mailbox.
    pub fn waiting(&self) -> i64 {
        self.probe.waiting()
    }

    /// Messages its mailbox has room for.
    pub fn capacity(&self) -> i64 {
        self.probe.capacity.get()
    }

    /// Brings the actor down, at its next turn or at the message that the fault says; the supervisor brings it back.
    pub fn inject(&self, fault: Fault) {
        match fault {
            Fault::PanicInHandler { after, moment } => self.probe.trap.set(after, moment),
            _ => self.order(|orders| orders.fault = Some(fault)),
        }
    }

    /// Ends the actor for good. What waits in its mailbox is dropped.
    pub fn end(&self) {
        self.order(|orders| orders.end = true);
    }

    fn order(&self, give: impl FnOnce(&mut Orders)) {
        let mut orders = self.control.orders();
        give(&mut orders);
        if let Some(waker) = orders.waker.take() {
            waker.wake();
        }
    }
}

impl Control {
    fn orders(&self) -> std::sync::MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts an actor on the arbiter's thread and keeps it alive there. `build` is called on that thread; the
/// actor's `Supervised::restarting` should call the same.
pub fn supervise<A>(
    arbiter: &ArbiterHandle,
    name: &str,
    mailbox_messages: usize,
    policy: RestartPolicy,
    metrics: &ActorMetrics,
    build: impl FnOnce(Probe) -> A + Send + 'static,
) -> (Mailbox<A>, Child)
where
    A: Supervised + Actor<Context = Context<A>>,
{
    let probe = metrics.probe(name);
    probe.opens(mailbox_messages);
    let control = Arc::new(Control { state: AtomicU8::new(0), orders: Mutex::default() });
    let child = Child { name: name.into(), control: control.clone(), probe: probe.clone() };
    let (sender, receiver) = channel::channel(mailbox_messages);
    let addr = Addr::new(sender);
    let supervised = (addr.clone(), probe.clone(), child.clone());
    arbiter.spawn_fn(move || {
        let (addr, probe, child) = supervised;
        let actor = build(probe.clone());
        actix::spawn(Supervising {
            _addr: addr,
            context: Some(Context::with_receiver(receiver).into_future(actor)),
            backoff: Backoff::new(policy.backoff_min, policy.backoff_max, policy.seed),
            restarts: VecDeque::new(),
            failed: false,
            resting: None,
            stalled: None,
            policy,
            child,
            control,
            probe,
        });
    });
    (Mailbox::new(addr, probe), child)
}

/// The future that an actor lives in.
struct Supervising<A: Actor<Context = Context<A>>> {
    /// actix restarts no actor that nobody can reach, and some are sent nothing: they work by the clock.
    _addr: Addr<A>,
    /// `None` once ended.
    context: Option<ContextFut<A, Context<A>>>,
    policy: RestartPolicy,
    backoff: Backoff,
    /// When the restarts within the window were.
    restarts: VecDeque<Instant>,
    /// The budget is spent, until a window passes without a death.
    failed: bool,
    resting: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
    child: Child,
    control: Arc<Control>,
    probe: Probe,
}

impl<A: Supervised + Actor<Context = Context<A>>> Future for Supervising<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            {
                let mut orders = this.control.orders();
                orders.waker = Some(task.waker().clone());
                if orders.end {
                    drop(orders);
                    this.end();
                    return Poll::Ready(());
                }
            }
            if let Some(stalled) = this.stalled.as_mut() {
                ready!(stalled.as_mut().poll(task));
                this.stalled = None;
            }
            if let Some(resting) = this.resting.as_mut() {
                ready!(resting.as_mut().poll(task));
                this.resting = None;
                let Some(context) = this.context.as_mut() else { return Poll::Ready(()) };
                match catch_unwind(AssertUnwindSafe(|| context.restart())) {
                    Ok(true) => {}
                    // Nobody holds its address any more.
                    Ok(false) => {
                        this.end();
                        return Poll::Ready(());
                    }
                    Err(panic) => {
                        this.died(Some(panic));
                        continue;
                    }
                }
            }
            this.set_state(ChildState::Running);
            let Some(context) = this.context.as_mut() else { return Poll::Ready(()) };
            // Taken only now: one that comes while the actor rests is for its next turn.
            let fault = this.control.orders().fault.take();
            if let Some(Fault::Stall(time)) = fault {
                tracing::warn!(actor = this.child.name(), ?time, "an actor stalls, as it was asked to");
                this.stalled = Some(Box::pin(tokio::time::sleep(time)));
                continue;
            }
            let turn = AssertUnwindSafe(|| match fault {
                Some(Fault::Panic) => panic!("a panic that was asked for"),
                Some(Fault::Stop) => Poll::Ready(()),
                _ => Pin::new(context).poll(task),
            });
            match catch_unwind(turn) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => this.died(None),
                Err(panic) => this.died(Some(panic)),
            }
        }
    }
}

impl<A: Supervised + Actor<Context = Context<A>>> Supervising<A> {
    fn died(&mut self, panic: Option<Box<dyn Any + Send>>) {
        let now = Instant::now();
        // A whole window without a death: what was before does not count any more.
        if self.restarts.back().is_none_or(|last| now.duration_since(*last) > self.policy.window) {
            self.restarts.clear();
            self.backoff.reset();
            self.failed = false;
        }
        while self.restarts.front().is_some_and(|then| now.duration_since(*then) > self.policy.window) {
            self.restarts.pop_front();
        }
        self.restarts.push_back(now);
        self.failed |= self.restarts.len() > self.policy.restarts_max;
        let failed = self.failed;
        while self.restarts.len() > self.policy.restarts_max.max(1) {
            // The list stays bounded.
            self.restarts.pop_front();
        }
        let wait = if failed { self.backoff.slowest() } else { self.backoff.failed() };
        self.set_state(if failed { ChildState::Failed } else { ChildState::Restarting });
        let actor = self.child.name();
        match panic {
            Some(panic) => {
                self.probe.panics.inc();
                tracing::error!(
                    actor,
                    panic = panic_text(&*panic),
                    ?wait,
                    failed,
                    "an actor panicked; it restarts"
                );
            }
            None => {
                self.probe.stops.inc();
                tracing::warn!(actor, ?wait, failed, "an actor stopped; it restarts");
            }
        }
        self.resting = Some(Box::pin(tokio::time::sleep(wait)));
    }

    fn end(&mut self) {
        self.set_state(ChildState::Ended);
        let context = self.context.take();
        if catch_unwind(AssertUnwindSafe(|| drop(context))).is_err() {
            tracing::error!(actor = self.child.name(), "an actor panicked while it was dropped");
        }
    }
}

impl<A: Actor<Context = Context<A>>> Supervising<A> {
    fn set_state(&self, state: ChildState) {
        self.control.state.store(state as u8, Ordering::Release);
        self.probe.state.set(state as i64);
    }
}

impl<A: Actor<Context = Context<A>>> Unpin for Supervising<A> {}

impl<A: Actor<Context = Context<A>>> Drop for Supervising<A> {
    /// Also when the arbiter's thread goes away.
    fn drop(&mut self) {
        self.set_state(ChildState::Ended);
    }
}

impl fmt::Display for ChildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was said with the panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

#[cfg(test)]
mod tests;
