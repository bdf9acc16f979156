//! One scenario, both APIs: our own (`ovm-standalone`), and a real kube-apiserver with `ovm-controller` and `ovm-agent` beside it.
//!
//! A suite lists its scenarios once, each with what it needs beyond kubectl, and has every one as a test for each API:
//!
//! ```text
//! tests::scenarios! {
//!     a_template_edit_waits_for_the_restart,
//!     walk_through_of_the_guide: Console UserData,
//! }
//!
//! fn a_template_edit_waits_for_the_restart(stack: &mut Stack) -> Result<()> { .. }
//! ```

use anyhow::Result;

use crate::kube::{is_given, why_no_shared_api};
use crate::libvirtd::why_unsupported;
use crate::programs::say_skipped;
use crate::stack::Stack;

/// Which API server a scenario runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// The one in `ovm-standalone`.
    Standalone,
    /// A real kube-apiserver.
    Kubernetes,
}

/// What a scenario needs and an API may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The guests' consoles.
    Console,
    /// Refusal of what the CRDs' schema cannot express.
    Admission,
    /// Guests with cloud-init user data.
    UserData,
}

impl Api {
    /// Why needs cannot be met; `None` if they can.
    fn lacks(self, needs: &[Need]) -> Option<String> {
        let lacks = self == Self::Kubernetes && is_given() && !needs.is_empty();
        // Consoles, user data and the webhook come from the controller, through the API server.
        lacks.then(|| format!("{needs:?} cannot be had where the API server does not reach a controller on this host"))
    }
}

/// Runs a scenario on servers of its own, and shows their logs if it fails. A host or an API that cannot do it skips it, loudly.
///
/// # Errors
/// When the servers do not start, or the scenario fails.
pub fn run(api: Api, name: &str, needs: &[Need], steps: impl FnOnce(&mut Stack) -> Result<()>) -> Result<()> {
    let name = format!("{name} ({api:?})");
    let unavailable = why_unsupported().or_else(|| match api {
        Api::Standalone => None,
        Api::Kubernetes => why_no_shared_api(),
    });
    if let Some(reason) = unavailable.or_else(|| api.lacks(needs)) {
        say_skipped(&name, &reason);
        return Ok(());
    }
    let mut stack = Stack::start_on(api)?;
    let result = steps(&mut stack);
    if result.is_err() {
        eprintln!("{name} failed\n{}", stack.report());
    }
    result
}

/// Makes a test for each API of each function named, with what it needs: `name,` or `name: Need Need,`.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident $(: $($need:ident)+)?),* $(,)?) => {
        mod standalone {
            $($crate::scenarios!(@test Standalone $name $($($need)+)?);)*
        }
        mod kubernetes {
            $($crate::scenarios!(@test Kubernetes $name $($($need)+)?);)*
        }
    };
    (@test $api:ident $name:ident $($need:ident)*) => {
        #[test]
        fn $name() -> anyhow::Result<()> {
            use $crate::scenario::{Api, Need, run};
            const NEEDS: &[Need] = &[$(Need::$need),*];
            run(Api::$api, stringify!($name), NEEDS, super::$name)
        }
    };
}
