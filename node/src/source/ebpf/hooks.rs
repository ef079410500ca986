//! Which functions of the running kernel are hooked: pure, over the text of `/proc/kallsyms`.

use std::fmt;

/// A moment in an entry's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It is inserted.
    Birth,
    /// It is destroyed: nothing counts into it any more.
    Death,
    /// It is listed over netlink.
    Adoption,
}

impl Moment {
    /// The functions that mark it, the best first, by their names in the kernel's source.
    const fn candidates(self) -> &'static [&'static str] {
        match self {
            Self::Birth => &["__nf_conntrack_hash_insert"],
            // Until 5.16 it was `destroy_conntrack`.
            Self::Death => &["nf_ct_destroy", "destroy_conntrack"],
            Self::Adoption => &["ctnetlink_fill_info"],
        }
    }
}

/// The functions to hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Called with the entry.
    pub birth: String,
    /// Called with the entry.
    pub death: String,
    /// Called with the entry as one of its last parameters.
    pub adoption: String,
}

/// The kernel has no function to hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NoHook {
    /// For this.
    pub moment: Moment,
}

impl fmt::Display for NoHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.moment.candidates().join(" or ");
        let (what, module) = match self.moment {
            Moment::Birth => ("births", "nf_conntrack"),
            Moment::Death => ("ends", "nf_conntrack"),
            Moment::Adoption => ("living entries", "nf_conntrack_netlink"),
        };
        write!(f, "no kernel function {names} to see {what} by (is {module} loaded?)")
    }
}

impl Hooks {
    /// Finds the functions in the text of `/proc/kallsyms`.
    ///
    /// A function is one of a candidate's name, or of that name with a suffix that the compiler
    /// gives to a variant of it. Never one that only begins alike: `nf_ct_destroy_timeout` has
    /// nothing to do with `nf_ct_destroy`.
    ///
    /// # Errors
    /// When there is none for a moment.
    pub fn find(kallsyms: &str) -> Result<Self, NoHook> {
        let mut found: [Option<(usize, &str)>; 3] = [None; 3];
        let moments = [Moment::Birth, Moment::Death, Moment::Adoption];
        for line in kallsyms.lines() {
            // "ffffffff81f37ad0 T nf_ct_destroy\t[nf_conntrack]"
            let mut words = line.split_ascii_whitespace().skip(1);
            let (Some("t" | "T"), Some(name)) = (words.next(), words.next()) else { continue };
            for (best, moment) in found.iter_mut().zip(moments) {
                let rank = rank(moment.candidates(), name);
                if let Some(rank) = rank.filter(|rank| best.is_none_or(|(least, _)| *rank < least))
                {
                    *best = Some((rank, name));
                }
            }
        }
        let take = |index: usize| match found[index] {
            Some((_, name)) => Ok(name.to_owned()),
            None => Err(NoHook { moment: moments[index] }),
        };
        Ok(Self { birth: take(0)?, death: take(1)?, adoption: take(2)? })
    }
}

/// How good a function is, the lower the better; `None` where it is not meant.
fn rank(candidates: &[&str], name: &str) -> Option<usize> {
    let position = candidates.iter().position(|candidate| {
        name.strip_prefix(candidate).is_some_and(|suffix| suffix.is_empty() || is_variant(suffix))
    })?;
    // A variant is worse than the function itself, better than the next candidate.
    Some(2 * position + usize::from(name.contains('.')))
}

/// Whether a suffix is `.constprop.N`, `.isra.N` or `.part.N`, or several of them.
fn is_variant(suffix: &str) -> bool {
    let mut words = suffix.split('.').skip(1);
    let mut any = false;
    while let Some(word) = words.next() {
        let number = words.next().unwrap_or_default();
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if !matches!(word, "constprop" | "isra" | "part") || !is_number {
            return false;
        }
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(names: &[&str]) -> Result<Hooks, NoHook> {
        let lines = names.iter().map(|name| format!("0000000000000000 t {name}\t[nf_conntrack]\n"));
        Hooks::find(&lines.collect::<String>())
    }

    #[test]
    fn each_kernel_has_its_names() {
        let hooks = |birth: &str, death: &str, adoption: &str| Hooks {
            birth: birth.into(),
            death: death.into(),
            adoption: adoption.into(),
        };
        let (birth, fill) = ("__nf_conntrack_hash_insert", "ctnetlink_fill_info");
        // 5.10: the destroy function has its old name, and a timeout's looks like the new one.
        let old = find(&[birth, "destroy_conntrack", "nf_ct_destroy_timeout", fill]);
        assert_eq!(old, Ok(hooks(birth, "destroy_conntrack", fill)));
        let new = find(&["nf_ct_destroy", birth, "ctnetlink_fill_info.constprop.0"]);
        assert_eq!(new, Ok(hooks(birth, "nf_ct_destroy", "ctnetlink_fill_info.constprop.0")));
    }

    #[test]
    fn the_function_itself_is_better_than_its_variants() {
        let birth = "__nf_conntrack_hash_insert";
        let all = ["nf_ct_destroy", birth, "ctnetlink_fill_info"];
        let variants = [
            "nf_ct_destroy.isra.0",
            "__nf_conntrack_hash_insert.part.0.isra.3",
            "ctnetlink_fill_info.constprop.0",
        ];
        let both: Vec<&str> = variants.into_iter().chain(all).collect();
        assert_eq!(find(&both), find(&all));
        assert_eq!(find(&variants).unwrap().birth, variants[1]);
    }

    #[test]
    fn what_only_begins_alike_is_another_function() {
        let names = [
            "nf_ct_destroy_timeout",
            "nf_ct_destroy.cold",
            "nf_ct_destroy.part",
            "nf_ct_destroy.llvm.123",
            "__nf_conntrack_hash_insert",
            "ctnetlink_fill_info",
        ];
        let error = find(&names).unwrap_err();
        assert_eq!(error, NoHook { moment: Moment::Death });
        assert!(error.to_string().contains("nf_ct_destroy or destroy_conntrack"), "{error}");
        assert_eq!(find(&[]), Err(NoHook { moment: Moment::Birth }));
    }

    #[test]
    fn data_is_no_function() {
        let text = "ffffffff81000000 D nf_ct_destroy\nffffffff81000000 t\n\nx";
        assert_eq!(Hooks::find(text), Err(NoHook { moment: Moment::Birth }));
    }
}
