//! An actor that panics on purpose.

use actix::{Handler, Message};
use tokio::sync::mpsc;

use super::*;
use crate::runtime::fault::Moment;

struct Echo {
    probe: Probe,
    heard: mpsc::UnboundedSender<u32>,
    /// Grows with every message, so a test can see whether state was built anew.
    count: u32,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Say(u32);

impl Actor for Echo {
    type Context = Context<Self>;
}

impl Supervised for Echo {
    fn restarting(&mut self, _: &mut Context<Self>) {
        *self = Self { probe: self.probe.clone(), heard: self.heard.clone(), count: 0 };
    }
}

impl Handler<Say> for Echo {
    type Result = ();

    fn handle(&mut self, Say(word): Say, _: &mut Context<Self>) {
        let _handling = self.probe.handling();
        assert!(word != 13, "thirteen");
        self.count += 1;
        self.heard.send(word * 100 + self.count).expect("the test listens");
    }
}

fn policy(restarts_max: usize) -> RestartPolicy {
    RestartPolicy {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        restarts_max,
        window: Duration::from_secs(60),
        seed: 1,
    }
}

fn start(restarts_max: usize) -> (Mailbox<Echo>, Child, mpsc::UnboundedReceiver<u32>) {
    let (heard, listen) = mpsc::unbounded_channel();
    let metrics = ActorMetrics::new(&prometheus::Registry::new());
    let build = move |probe| Echo { probe, heard, count: 0 };
    let arbiter = actix::Arbiter::current();
    let (mailbox, child) = supervise(&arbiter, "echo", 16, policy(restarts_max), &metrics, build);
    (mailbox, child, listen)
}

/// P7: a panic costs the message that panicked and the actor's state; the address and what waits survive.
#[test]
fn p7_a_panic_is_one_restart_and_the_mailbox_survives() {
    actix::System::new().block_on(async {
        let (mailbox, child, mut listen) = start(5);
        for word in [1, 2, 13, 3, 4] {
            mailbox.offer(Say(word)).expect("the mailbox has room");
        }
        let mut heard = Vec::new();
        for _ in 0..4 {
            heard.push(listen.recv().await.expect("the actor lives"));
        }
        assert_eq!(heard, [101, 202, 301, 402]);
        assert_eq!((child.restarts(), child.state()), (1, ChildState::Running));
        child.inject(Fault::Panic);
        child.inject(Fault::Stop);
        mailbox.offer(Say(9)).expect("the mailbox has room");
        assert_eq!(listen.recv().await, Some(901));
        assert_eq!(child.restarts(), 2);
    });
}

/// A trap springs at the message it was set for, before or after the actor has done its work, and once.
#[test]
fn a_panic_can_be_asked_for_at_a_message() {
    actix::System::new().block_on(async {
        let (mailbox, child, mut listen) = start(5);
        child.inject(Fault::PanicInHandler { after: 2, moment: Moment::Entering });
        for word in 1..=5 {
            mailbox.offer(Say(word)).expect("the mailbox has room");
        }
        let mut heard = Vec::new();
        for _ in 0..4 {
            heard.push(listen.recv().await.expect("the actor lives"));
        }
        assert_eq!(heard, [101, 202, 401, 502], "the third is lost, and the count begins anew");
        child.inject(Fault::PanicInHandler { after: 0, moment: Moment::Leaving });
        for word in [6, 7] {
            mailbox.offer(Say(word)).expect("the mailbox has room");
        }
        assert_eq!((listen.recv().await, listen.recv().await), (Some(603), Some(701)));
        assert_eq!(child.restarts(), 2);
    });
}

/// A stalled actor handles nothing and loses nothing.
#[test]
fn a_stalled_actor_goes_on_where_it_was() {
    actix::System::new().block_on(async {
        tokio::time::pause();
        let (mailbox, child, mut listen) = start(5);
        mailbox.offer(Say(1)).expect("the mailbox has room");
        assert_eq!(listen.recv().await, Some(101));
        let began = tokio::time::Instant::now();
        child.inject(Fault::Stall(Duration::from_secs(3)));
        mailbox.offer(Say(2)).expect("the mailbox has room");
        assert_eq!(listen.recv().await, Some(202));
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert_eq!(child.restarts(), 0);
    });
}

/// A spent budget is a state, not an end: the actor is retried, and answers again when it can.
#[test]
fn a_spent_restart_budget_is_failed_and_retried() {
    actix::System::new().block_on(async {
        let (mailbox, child, mut listen) = start(2);
        for _ in 0..3 {
            mailbox.offer(Say(13)).expect("the mailbox has room");
        }
        while child.state() != ChildState::Failed {
            tokio::task::yield_now().await;
        }
        mailbox.offer(Say(5)).expect("the mailbox has room");
        assert_eq!(listen.recv().await, Some(501));
        assert_eq!(child.restarts(), 3);
        child.end();
        while child.state() != ChildState::Ended {
            tokio::task::yield_now().await;
        }
    });
}

/// P5: a full mailbox gives the message back; nothing queues beyond the bound.
#[test]
fn p5_a_full_mailbox_refuses() {
    actix::System::new().block_on(async {
        let (mailbox, child, _listen) = start(2);
        let refused = (0..100).filter(|&i| mailbox.offer(Say(i + 20)).is_err()).count();
        assert!(refused >= 80, "only {refused} of 100 were refused by a mailbox of 16");
        assert!(child.waiting() <= 17);
    });
}

/// Scenario: an actor stands still, and each message is offered through a clone of its mailbox, as each commit does.
/// Guarantee: the bound is kept: actix gives every clone a place of its own, so 2,239 commits of up to 4 MiB waited for a
/// Batcher that has room for 4.
#[test]
fn r0310_every_clone_of_a_mailbox_had_a_place_beyond_the_bound() {
    actix::System::new().block_on(async {
        let (mailbox, child, _listen) = start(2);
        child.inject(Fault::Stall(Duration::from_secs(3600)));
        let taken = (0..100).filter(|&i| mailbox.clone().offer(Say(i + 20)).is_ok()).count();
        assert_eq!((taken, child.waiting()), (16, 16));
    });
}

/// Scenario: an actor ends with messages in its mailbox, and another of its name begins, as when a sink is replaced.
/// Guarantee: the new one has all of its room.
#[test]
fn messages_left_behind_take_no_room_of_who_comes_after() {
    actix::System::new().block_on(async {
        let metrics = ActorMetrics::new(&prometheus::Registry::new());
        let arbiter = actix::Arbiter::current();
        let mut children = Vec::new();
        for life in 0..3 {
            let (heard, listen) = mpsc::unbounded_channel();
            let build = move |probe| Echo { probe, heard, count: 0 };
            let (mailbox, child) = supervise(&arbiter, "echo", 4, policy(2), &metrics, build);
            assert_eq!(child.waiting(), 0, "in life {life}");
            child.inject(Fault::Stall(Duration::from_secs(3600)));
            let taken = (0..9).filter(|&i| mailbox.offer(Say(i + 20)).is_ok()).count();
            assert_eq!(taken, 4, "in life {life}");
            child.end();
            while child.state() != ChildState::Ended {
                tokio::task::yield_now().await;
            }
            children.push((child, listen));
        }
    });
}
