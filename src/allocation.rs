//! What a batch system has given to the job that this process is part of.

/// Processors and memory of a job on this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Allocation {
    /// Processors; at least 1.
    pub(crate) processors: Option<usize>,
    /// Bytes of memory.
    pub(crate) memory: Option<u64>,
}

impl Allocation {
    /// Reads the variables of Slurm: `SLURM_CPUS_PER_TASK`, which is set where a job asks for it, else
    /// `SLURM_CPUS_ON_NODE`; and `SLURM_MEM_PER_NODE`, or `SLURM_MEM_PER_CPU` for each of these, in MiB.
    /// A memory of 0 is all that the machine has. Nothing outside of a job.
    pub(crate) fn of_slurm(variable: impl Fn(&str) -> Option<String>) -> Allocation {
        if variable("SLURM_JOB_ID").is_none() {
            return Allocation::default();
        }
        let number = |name: &str| variable(name)?.trim().parse::<u64>().ok().filter(|one| *one > 0);
        let processors = number("SLURM_CPUS_PER_TASK").or_else(|| number("SLURM_CPUS_ON_NODE"));
        let mebibytes = number("SLURM_MEM_PER_NODE")
            .or_else(|| Some(number("SLURM_MEM_PER_CPU")?.saturating_mul(processors?)));
        Allocation {
            processors: processors.and_then(|count| usize::try_from(count).ok()),
            memory: mebibytes.map(|mebibytes| mebibytes.saturating_mul(1 << 20)),
        }
    }

    /// Returns how many things that may take `each` bytes fit beside each other; `None` where nothing says.
    pub(crate) fn fitting(self, each: u64) -> Option<usize> {
        let count = self.memory?.checked_div(each)?;
        Some(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Allocation {
        Allocation::of_slurm(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_job_of_slurm_has_what_it_asked_for() {
        let allocation = of(&[
            ("SLURM_JOB_ID", "7"),
            ("SLURM_CPUS_PER_TASK", "8"),
            ("SLURM_CPUS_ON_NODE", "16"),
            ("SLURM_MEM_PER_NODE", "65536"),
        ]);
        assert_eq!(allocation, Allocation { processors: Some(8), memory: Some(64 << 30) });
        assert_eq!(allocation.fitting(8 << 30), Some(8));
        assert_eq!(allocation.fitting(65 << 30), Some(0));
        assert_eq!(allocation.fitting(0), None);
        let by_processor =
            [("SLURM_JOB_ID", "7"), ("SLURM_CPUS_ON_NODE", "4"), ("SLURM_MEM_PER_CPU", "2000")];
        assert_eq!(of(&by_processor).memory, Some(8000 << 20));
    }

    #[test]
    fn elsewhere_and_where_nothing_is_said_there_is_no_bound() {
        assert_eq!(of(&[("SLURM_CPUS_PER_TASK", "8")]), Allocation::default());
        // `--mem=0` is the whole machine.
        let all = of(&[("SLURM_JOB_ID", "7"), ("SLURM_MEM_PER_NODE", "0")]);
        assert_eq!(all, Allocation::default());
        assert_eq!(all.fitting(1), None);
    }
}
