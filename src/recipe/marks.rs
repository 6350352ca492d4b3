//! The exit codes and marks by which a container and imgforge understand each other.

/// The exit code by which a container says that the model patch does not apply.
pub const PATCH_REFUSED: i64 = 97;

/// The exit code by which a container says that a service which the tests need did not start.
pub const NO_SERVICE: i64 = 98;

/// The exit code by which a container, or its script, says that the image is not what the row says:
/// no such directory, no such commit, a test patch that does not apply.
pub const NOT_READY: i64 = 96;

/// The path of a test patch that cannot stand in a script.
pub const TEST_PATCH_FILE: &str = "/tmp/test.patch";

/// The start of the line of its output that says what; a script may end with any code.
pub const NOT_READY_MARK: &str = ">>>>> Image Not Ready: ";

/// The start of lines on the control channel that say what the model patch changed.
pub const CHANGE_MARK: &str = "imgforge-change: ";

/// The start of lines that say which of its changes the strict rules undid.
pub const RESTORED_MARK: &str = "imgforge-restored: ";

/// The start of lines that say what the strict rules took away of what commands of the script made.
pub const REMOVED_MARK: &str = "imgforge-removed: ";
