//! The programs in the kernel: loading them with a layout, attaching them, running the sweep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use aya::maps::{IterableMap as _, Map, MapData, PerCpuArray, RingBuf};
use aya::pin::PinError;
use aya::programs::kprobe::KProbeLinkId;
use aya::programs::links::FdLink;
use aya::programs::raw_trace_point::RawTracePoint;
use aya::programs::{KProbe, ProgramError, RawTracePointRunOptions, TestRun};
use aya::{Ebpf, EbpfError, EbpfLoader};
use daemon::config::chain;
use ebpf_abi::{CHUNK, Entry};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::hooks::Hooks;
use super::layout::Layout;
use crate::sys::SweepBuffer;

/// How programs are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadSettings {
    /// Bytes of the ring buffer: a power of two, pages.
    pub ring_bytes: u32,
    /// The inode of the only namespace whose entries are told of; 0 = all.
    pub only_netns: u32,
}

/// Why programs could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// The kernel does not let this process load programs.
    #[error(
        "loading eBPF programs is not permitted ({hint}); run as root, or with CAP_BPF, \
         CAP_PERFMON and CAP_NET_ADMIN"
    )]
    Privilege {
        /// What may stand behind it.
        hint: &'static str,
    },
    /// The kernel does not let programs read its memory.
    #[error("the kernel is locked down (confidentiality): eBPF programs may not read its memory")]
    Lockdown,
    /// The kernel's verifier refused a program, or the kernel is too old.
    #[error("the kernel refused the program {program} ({last_line})")]
    Refused {
        /// Which one.
        program: &'static str,
        /// The end of what the verifier said.
        last_line: String,
        /// What the kernel answered.
        #[source]
        error: io::Error,
    },
    /// It is not known where this machine keeps a function's arguments.
    #[error("eBPF is not supported on this architecture ({})", std::env::consts::ARCH)]
    Architecture,
    /// The kernel keeps kprobes to the mighty.
    #[error(
        "kprobes are not permitted: kernel.perf_event_paranoid is {paranoid}, for which this \
         kernel (Debian's) wants CAP_SYS_ADMIN; set it to 2, or run as root"
    )]
    Paranoid {
        /// The sysctl's value.
        paranoid: i32,
    },
    /// A function could not be hooked.
    #[error("the kernel function {function} cannot be hooked (kprobes are off or refuse it)")]
    Attach {
        /// Which one.
        function: String,
        /// Why.
        #[source]
        error: Box<ProgramError>,
    },
    /// The object could not be loaded.
    #[error("the eBPF object could not be loaded")]
    Load(#[source] Box<EbpfError>),
    /// The object lacks a part.
    #[error("the eBPF object has no {what}")]
    Object {
        /// What.
        what: &'static str,
    },
    /// The sweep program could not be run.
    #[error("the sweep program could not be run")]
    Run(#[source] Box<ProgramError>),
    /// The sweep buffer could not be mapped.
    #[error("the sweep buffer could not be mapped")]
    Map(#[source] io::Error),
}

/// Loaded programs, and what the kernel tells through.
pub struct Loaded {
    /// The programs.
    pub programs: Programs,
    /// Where the kernel's records are.
    pub rings: Rings,
}

/// Where the kernel's records are.
pub struct Rings {
    /// Births and deaths.
    pub events: RingBuf<MapData>,
    /// Entries that were listed.
    pub adopted: RingBuf<MapData>,
    /// What did not fit there, by kind.
    pub losses: PerCpuArray<MapData, u64>,
}

/// The programs. What is attached is detached when they are dropped.
pub struct Programs {
    ebpf: Ebpf,
    buffer: SweepBuffer,
    adopting: Option<KProbeLinkId>,
    hooks: Option<Hooks>,
    /// The hook on deaths, where the kernel gives hooks as files (Linux 5.15).
    death: Option<FdLink>,
    /// To be pinned: the ring of births and deaths, and what did not fit.
    maps: [MapData; 2],
}

impl Programs {
    /// Loads the sweep program and makes the maps; nothing is attached yet.
    ///
    /// # Errors
    /// Without the privilege, where the kernel is too old or locked down.
    pub fn load(layout: &Layout, settings: LoadSettings) -> Result<Loaded, ProgramsError> {
        // Before 5.11 maps count as locked memory; where it may not be raised, the kernel says.
        let unlimited = Rlimit { current: None, maximum: None };
        let _unprivileged = setrlimit(Resource::Memlock, unlimited);
        let arguments = arguments().ok_or(ProgramsError::Architecture)?;
        let (conn, tuple) = (&layout.nf_conn, &layout.tuple);
        let (span, wake) = (layout.span(), u64::from(settings.ring_bytes / WAKE_AT));
        let (orig_dir, reply_dir) = (conn.orig + tuple.dir, conn.reply + tuple.dir);
        let mut loader = EbpfLoader::new();
        for (name, value) in [
            ("CT_SPAN", &span),
            ("CT_USE", &conn.references),
            ("CT_STATUS", &conn.status),
            ("CT_NET", &conn.net),
            ("CT_EXT", &conn.ext),
            ("ORIG_DIR", &orig_dir),
            ("REPLY_DIR", &reply_dir),
            ("EXT_ACCT", &layout.nf_ct_ext.acct),
            ("EXT_TSTAMP", &layout.nf_ct_ext.tstamp),
            ("NET_INUM", &layout.net_inum),
            ("SKB_NFCT", &layout.skb_nfct),
            ("ONLY_NETNS", &settings.only_netns),
        ] {
            loader.override_global(name, value, true);
        }
        loader.override_global("WAKE_BYTES", &wake, true);
        loader.override_global("ARGUMENTS", &arguments, true);
        loader.map_max_entries("EVENTS", settings.ring_bytes);
        let mut ebpf = loader.load(OBJECT).map_err(loading)?;
        let losses = ebpf.take_map("LOSSES").and_then(|map| PerCpuArray::try_from(map).ok());
        let losses = losses.ok_or(ProgramsError::Object { what: "LOSSES" })?;
        let mut ring = |what: &'static str| {
            let ring = ebpf.take_map(what).and_then(|map| RingBuf::try_from(map).ok());
            ring.ok_or(ProgramsError::Object { what })
        };
        let rings = Rings { events: ring("EVENTS")?, adopted: ring("ADOPTED")?, losses };
        let again = |map: BorrowedFd<'_>| {
            let map = map.try_clone_to_owned().map(MapData::from_fd).map_err(ProgramsError::Map)?;
            map.map_err(|error| ProgramsError::Load(Box::new(error.into())))
        };
        let maps = [again(rings.events.as_fd())?, again(rings.losses.map().fd().as_fd())?];
        let Some(Map::Array(array)) = ebpf.map("SWEEP") else {
            return Err(ProgramsError::Object { what: "SWEEP" });
        };
        let buffer = SweepBuffer::map(array.fd().as_fd());
        let buffer = buffer.map_err(ProgramsError::Map)?;
        let mut programs = Self { ebpf, buffer, adopting: None, hooks: None, death: None, maps };
        programs.raw("sweep")?.load().map_err(|error| refused("sweep", error))?;
        Ok(Loaded { programs, rings })
    }

    /// Begins to listen for births and deaths; adoption can be switched on from now on.
    ///
    /// # Errors
    /// When a function cannot be hooked.
    pub fn attach(&mut self, hooks: &Hooks) -> Result<(), ProgramsError> {
        for program in ["death", "birth", "adopt"] {
            self.kprobe(program)?.load().map_err(|error| refused(program, error))?;
        }
        // Deaths first: an entry whose birth was told has its end told, too.
        let death = self.kprobe("death")?;
        let link = hook(death, &hooks.death)?;
        let file = death.take_link(link).ok().and_then(|link| FdLink::try_from(link).ok());
        if file.is_none() {
            // What could not be made a file is detached.
            hook(death, &hooks.death)?;
        }
        self.death = file;
        hook(self.kprobe("birth")?, &hooks.birth)?;
        self.hooks = Some(hooks.clone());
        Ok(())
    }

    /// Whether the hook on deaths can outlive this process.
    pub(super) const fn can_outlive(&self) -> bool {
        self.death.is_some()
    }

    /// Pins the ring, the losses and the hook on deaths at these places, to outlive the process.
    ///
    /// # Errors
    /// When the kernel refuses, with the place; then nothing but files is left of the attempt.
    pub(super) fn pin(&mut self, places: [PathBuf; 3]) -> Result<(), (PathBuf, PinError)> {
        let [ring, losses, hook_place] = places;
        for (map, place) in self.maps.iter().zip([ring, losses]) {
            map.pin(&place).map_err(|error| (place, error))?;
        }
        let Some(death) = self.death.take() else { return Ok(()) };
        match death.pin(&hook_place) {
            Ok(pinned) => {
                self.death = Some(pinned.into());
                Ok(())
            }
            Err(error) => {
                // The hook went with the attempt. What ends until there is one again is missed by
                // the sweeps.
                if let Some(function) = self.hooks.as_ref().map(|hooks| hooks.death.clone()) {
                    let again = self.kprobe("death").and_then(|probe| hook(probe, &function));
                    if let Err(error) = again {
                        tracing::error!(error = %chain(&error), "ends are not told any more");
                    }
                }
                Err((hook_place, error))
            }
        }
    }

    /// Begins or ceases to tell of entries that are listed over netlink.
    ///
    /// # Errors
    /// When the function cannot be hooked.
    pub fn adopt(&mut self, on: bool) -> Result<(), ProgramsError> {
        match (on, self.adopting.take()) {
            (true, None) => {
                let function = self.hooks.as_ref().map(|hooks| hooks.adoption.clone());
                let function = function.ok_or(ProgramsError::Object { what: "adoption hook" })?;
                self.adopting = Some(hook(self.kprobe("adopt")?, &function)?);
            }
            (true, link) => self.adopting = link,
            (false, Some(link)) => {
                let detached = self.kprobe("adopt")?.detach(link);
                detached.map_err(|error| ProgramsError::Run(Box::new(error)))?;
            }
            (false, None) => {}
        }
        Ok(())
    }

    /// Begins to tell of the entries of packets that are transmitted, for benchmarks.
    ///
    /// # Errors
    /// When the tracepoint cannot be used.
    pub fn collect(&mut self) -> Result<(), ProgramsError> {
        let program = self.raw("collect")?;
        program.load().map_err(|error| refused("collect", error))?;
        let attached = program.attach(TRANSMIT);
        attached.map(drop).map_err(|error| ProgramsError::Attach {
            function: TRANSMIT.to_owned(),
            error: Box::new(error),
        })
    }

    /// Reads the entries at `pointers`, at most [`CHUNK`], in one call.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn sweep(&mut self, pointers: &[u64]) -> Result<&[Entry], ProgramsError> {
        let count = pointers.len().min(CHUNK);
        self.buffer.get_mut().pointers[..count].copy_from_slice(&pointers[..count]);
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = count as u64;
        let run = self.raw("sweep")?.test_run(options);
        run.map_err(|error| ProgramsError::Run(Box::new(error)))?;
        Ok(&self.buffer.get().entries[..count])
    }

    /// How often the attached programs have run, where the kernel counts it
    /// (`kernel.bpf_stats_enabled`).
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn runs(&mut self) -> Result<u64, ProgramsError> {
        let mut runs = 0;
        for program in ["birth", "death"] {
            let info = self.kprobe(program)?.info();
            let info = info.map_err(|error| ProgramsError::Run(Box::new(error)))?;
            runs += info.run_count();
        }
        Ok(runs)
    }

    fn kprobe(&mut self, name: &'static str) -> Result<&mut KProbe, ProgramsError> {
        let program = self.ebpf.program_mut(name).and_then(|program| program.try_into().ok());
        program.ok_or(ProgramsError::Object { what: name })
    }

    fn raw(&mut self, name: &'static str) -> Result<&mut RawTracePoint, ProgramsError> {
        let program = self.ebpf.program_mut(name).and_then(|program| program.try_into().ok());
        program.ok_or(ProgramsError::Object { what: name })
    }
}

fn hook(probe: &mut KProbe, function: &str) -> Result<KProbeLinkId, ProgramsError> {
    probe.attach(function, 0).map_err(|error| {
        // Debian's kernels have a level more than others.
        let file = "/proc/sys/kernel/perf_event_paranoid";
        let level = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        match level {
            Some(paranoid @ 3..) if is_forbidden(&error) => ProgramsError::Paranoid { paranoid },
            _ => {
                let function = function.to_owned();
                ProgramsError::Attach { function, error: Box::new(error) }
            }
        }
    })
}

fn loading(error: EbpfError) -> ProgramsError {
    match is_forbidden(&error) {
        true => not_permitted(),
        false => ProgramsError::Load(Box::new(error)),
    }
}

/// Whether the kernel has said that a privilege is missing.
fn is_forbidden(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut numbers = causes
        .filter_map(|error| error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error));
    numbers.any(|number| matches!(number, libc::EPERM | libc::EACCES))
}

fn refused(program: &'static str, error: ProgramError) -> ProgramsError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            if io_error.raw_os_error() == Some(libc::EPERM) {
                return not_permitted();
            }
            // The last lines are statistics; the one before says what is wrong.
            let said = log.lines().rev().map(str::trim);
            let line = said
                .filter(|line| !line.is_empty() && !line.starts_with("processed "))
                .find(|line| !line.starts_with("verification time"));
            let last_line = line.unwrap_or("it gave no reason").to_owned();
            ProgramsError::Refused { program, last_line, error: io_error }
        }
        other => ProgramsError::Run(Box::new(other)),
    }
}

fn not_permitted() -> ProgramsError {
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return ProgramsError::Lockdown;
    }
    let hint = "the sandbox forbids bpf(), or the capabilities are those of a user namespace";
    ProgramsError::Privilege { hint }
}

/// Where this machine keeps a function's first five arguments in `struct pt_regs`
/// (`arch/*/include/asm/ptrace.h`): `rdi`, `rsi`, `rdx`, `rcx`, `r8`; `regs[0]` to `regs[4]`.
const fn arguments() -> Option<u64> {
    if cfg!(target_arch = "x86_64") {
        Some(u64::from_le_bytes([112, 104, 96, 88, 72, 0, 0, 0]))
    } else if cfg!(target_arch = "aarch64") {
        Some(u64::from_le_bytes([0, 8, 16, 24, 32, 0, 0, 0]))
    } else {
        None
    }
}

/// Built from `ebpf/probe` by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../ebpf/prebuilt/probe.bpfel.o");

/// The reader of the ring is woken when this part of it is full.
const WAKE_AT: u32 = 8;

const TRANSMIT: &str = "net_dev_start_xmit";
