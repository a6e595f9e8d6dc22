//! `/health`, `/health/live`, `/health/ready` and `/metrics`.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use forebay_actors::{
    health::{HealthReport, Status},
    record::SinkName,
    runtime::supervisor::ChildState,
    state::Totals,
};
use prometheus::{Encoder as _, TextEncoder};
use serde::Serialize;
use serde_json::{Value, json};
use sysinfo::{Disks, Pid, ProcessesToUpdate, System};
use tokio::time::Instant;

use super::{error::ApiError, server::Shared};
use crate::{ingress::limits::RouteClass, pipeline::View};

/// How long a look at the system's resources counts as fresh: it costs a walk through /proc.
const RESOURCES_FRESH: Duration = Duration::from_secs(2);

/// What the process takes of the machine.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Resources {
    /// Resident memory.
    memory_bytes: u64,
    /// Of one core; over 100 on several.
    cpu_percent: f32,
    /// Free on the device of the data directory.
    disk_free_bytes: Option<u64>,
    /// Files, sockets and pipes.
    open_files: Option<usize>,
}

/// Looks at the machine, at most every two seconds.
#[derive(Debug)]
pub struct ResourceMeter(Mutex<Meter>);

#[derive(Debug)]
struct Meter {
    /// Absent without /proc: then there is nothing to tell, and nothing to fail for.
    system: Option<System>,
    last: Option<(Instant, Resources)>,
}

impl Default for ResourceMeter {
    fn default() -> Self {
        Self(Mutex::new(Meter { system: System::new().ok(), last: None }))
    }
}

impl ResourceMeter {
    /// What the process takes now, or took a moment ago. Blocks for a few milliseconds.
    pub fn read(&self, data_dir: &Path) -> Resources {
        let mut meter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, resources)) = meter.last
            && at.elapsed() < RESOURCES_FRESH
        {
            return resources;
        }
        let pid = Pid::from_u32(std::process::id());
        let process = meter.system.as_mut().and_then(|system| {
            let _ = system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
            system.process(pid)
        });
        let disks = Disks::new_with_refreshed_list().ok();
        let disk = disks
            .iter()
            .flat_map(|disks| disks.iter())
            .filter(|disk| data_dir.starts_with(disk.mount_point()));
        let disk = disk.max_by_key(|disk| disk.mount_point().as_os_str().len());
        let resources = Resources {
            memory_bytes: process.map_or(0, sysinfo::Process::memory),
            cpu_percent: process.map_or(0.0, sysinfo::Process::cpu_usage),
            disk_free_bytes: disk.map(sysinfo::Disk::available_space),
            open_files: process.and_then(sysinfo::Process::open_files),
        };
        meter.last = Some((Instant::now(), resources));
        resources
    }
}

/// How the whole is, with its reasons. 503 only where events are not taken.
///
/// # Errors
/// 429.
pub async fn health(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, ApiError> {
    check(&request, &shared)?;
    let for_resources = shared.clone();
    let looked = web::block(move || {
        let letters = for_resources.view.dead_letters.all_totals().unwrap_or_default();
        (for_resources.resources.read(&for_resources.data_dir), letters)
    });
    let (resources, letters) = looked.await.unwrap_or_default();
    let (report, _) = shared.view.board.read();
    let reason = not_ready(&shared.view);
    let status = if reason.is_some() { Status::Unhealthy } else { report.status.min(Status::Degraded) };
    let code = if reason.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok(HttpResponse::build(code).json(json!({
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": shared.started.elapsed().as_secs(),
        "checks": {
            "application": { "status": status, "reason": reason, "actors": report.actors },
            "buffer": buffer(&shared),
            "sinks": sinks(&report, letters),
            "system_resources": resources,
        },
    })))
}

fn buffer(shared: &Shared) -> Value {
    let (metrics, usage) = (&shared.view.buffer, shared.view.journal.usage());
    let max = metrics.max_bytes.get().max(1) as u64;
    let dropped: u64 = prometheus::core::Collector::collect(&metrics.dropped)
        .iter()
        .flat_map(|family| family.get_metric().to_vec())
        .map(|metric| metric.get_counter().get_value() as u64)
        .sum();
    let full = metrics.full.get() > 0;
    let status = match (full, usage.damaged) {
        (true, _) => Status::Unhealthy,
        (false, 0) => Status::Healthy,
        (false, _) => Status::Degraded,
    };
    json!({
        "status": status,
        "current_size": usage.disk_bytes,
        "max_size": max,
        "usage_percent": (usage.disk_bytes as f64 * 1000.0 / max as f64).round() / 10.0,
        "dropped": dropped,
        "events": metrics.events.get(),
        "generations": usage.generations,
        "damaged": usage.damaged,
    })
}

/// Each sink as it says; one whose name the configuration has but that nobody has looked at yet is left out.
fn sinks(report: &HealthReport, letters: Vec<(SinkName, Totals)>) -> Value {
    let mut sinks = json!(report.sinks);
    for sink in sinks.as_object_mut().into_iter().flat_map(|sinks| sinks.values_mut()) {
        sink["dead_letters_kept"] = json!(0);
    }
    for (name, totals) in letters {
        if let Some(sink) = sinks.get_mut(name.as_str()) {
            sink["dead_letters_kept"] = json!(totals.letters);
        }
    }
    sinks
}

/// Whether the process is alive: 503 where the threads of the actors are stuck, so that it is started again.
///
/// # Errors
/// 429.
pub async fn live(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, ApiError> {
    check(&request, &shared)?;
    let (_, stuck) = shared.view.board.read();
    if stuck {
        return Err(ApiError::unavailable("stuck", "the actors do not get on", Duration::from_secs(5)));
    }
    Ok(HttpResponse::Ok().json(json!({"status": "alive"})))
}

/// Whether events are taken: 503 where they would be refused.
///
/// # Errors
/// 429.
pub async fn ready(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, ApiError> {
    check(&request, &shared)?;
    match not_ready(&shared.view) {
        Some(reason) => Err(ApiError::unavailable("not_ready", reason, Duration::from_secs(1))),
        None => Ok(HttpResponse::Ok().json(json!({"status": "ready"}))),
    }
}

/// Prometheus' text.
///
/// # Errors
/// 429.
pub async fn metrics(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, ApiError> {
    check(&request, &shared)?;
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    encoder
        .encode(&shared.registry.gather(), &mut text)
        .map_err(|e| ApiError::internal(format!("the metrics cannot be written: {e}")))?;
    Ok(HttpResponse::Ok().content_type(encoder.format_type()).body(text))
}

fn check(request: &HttpRequest, shared: &Shared) -> Result<(), ApiError> {
    shared.limits.check(RouteClass::Health, request.peer_addr().map(|peer| peer.ip()))
}

/// Why events would be refused now.
pub fn not_ready(view: &View) -> Option<&'static str> {
    let (report, stuck) = view.board.read();
    let unusable = |actor: &str| {
        let state = report.actors.get(actor).map(|actor| actor.state);
        state.is_none_or(|state| state == ChildState::Failed.as_str() || state == ChildState::Ended.as_str())
    };
    if view.gate.is_closed() {
        Some("the process is shutting down")
    } else if stuck {
        Some("the actors do not get on")
    } else if report.actors.is_empty() {
        // `Health` has not looked yet.
        Some("the process is starting")
    } else if unusable("receiver") || unusable("buffer") {
        Some("the receiver or the buffer has failed")
    } else if view.buffer.full.get() == 2 {
        Some("no space is left on the device of the journal")
    } else if view.buffer.full.get() == 3 {
        Some("the journal cannot be written")
    } else if view.buffer.full.get() > 0 {
        Some("the journal is full, because a sink is behind (see its lag_events)")
    } else {
        None
    }
}
