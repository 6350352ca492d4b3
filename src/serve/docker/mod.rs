//! The Docker Engine API over sessions of an engine.
//!
//! A container of Docker's is one session, which begins when the container is created. Its main
//! command is a command in the session, beside what `exec` starts: the first process of the container
//! is the engine's own. When the main command ends, all processes are killed and the session stays, so
//! that files can still be copied. All state is in the memory of the server, and every container ends
//! with it.
//!
//! [`routes`] says what is served; what is not is answered with 501 and a sentence.

mod allowed_binds;
mod answer;
mod archive;
mod attach;
mod build;
mod build_context;
mod call;
mod capabilities;
mod command;
mod commit;
mod connections;
mod container;
mod container_routes;
mod container_volumes;
mod count;
mod create;
mod description;
mod detach;
mod disk_usage;
mod event_stream;
mod events;
mod exec;
mod exec_create;
mod filters;
mod health;
mod hijack;
mod hosts;
mod id;
mod images;
mod layer_file;
mod listing;
mod load;
mod logs;
mod mounts;
mod network_members;
mod network_routes;
mod networks;
mod not_given;
mod output;
mod ports;
mod prune;
mod pull;
mod reach;
mod restarting;
mod routes;
mod save;
mod server;
mod state;
mod stats;
mod stream;
mod system;
mod times;
mod told;
mod ulimits;
mod update;
mod volume_routes;
mod volumes;
mod wait;

pub use allowed_binds::AllowedBinds;
pub use connections::serve;
pub use server::{Server, Settings};
