//! What containers of Docker's can have and those of a sandbox cannot.

use bollard_stubs::models::HostConfig;

use super::answer::Refusal;
use super::capabilities;

/// Refuses drivers that there are not.
pub(super) fn check_drivers(host: &HostConfig) -> Result<(), Refusal> {
    let log = host.log_config.as_ref().and_then(|config| config.typ.as_deref()).unwrap_or_default();
    match log {
        "" | "json-file" | "local" | "none" => Ok(()),
        other => Err(Refusal::bad(format!("logger: no log driver named '{other}' is registered"))),
    }
}

/// Says what is asked for and not given.
pub(super) fn name(host: &HostConfig, warnings: &mut Vec<String>) {
    let mut say = |is_asked: bool, what: &str| {
        if is_asked {
            warnings.push(format!("{what}: not given, imgforge runs sandboxes"));
        }
    };
    let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let is = |text: &Option<String>, wanted: &str| text.as_deref() == Some(wanted);
    say(host.privileged == Some(true), "Privileged");
    for name in capabilities::not_given(host.cap_add.as_deref().unwrap_or_default()) {
        say(true, &format!("CapAdd {name}"));
    }
    say(host.devices.as_ref().is_some_and(|list| !list.is_empty()), "Devices");
    say(host.device_requests.as_ref().is_some_and(|list| !list.is_empty()), "DeviceRequests");
    say(is(&host.pid_mode, "host"), "PidMode host");
    say(host.pid_mode.as_ref().is_some_and(|mode| mode.starts_with("container:")), "PidMode");
    say(is(&host.ipc_mode, "host"), "IpcMode host");
    say(is(&host.uts_mode, "host"), "UTSMode host");
    say(has(&host.links), "Links");
    say(has(&host.dns), "Dns");
    say(host.sysctls.as_ref().is_some_and(|map| !map.is_empty()), "Sysctls");
    let options = host.security_opt.iter().flatten();
    for option in options.filter(|option| option.contains("unconfined")) {
        say(true, &format!("SecurityOpt {option}"));
    }
}
