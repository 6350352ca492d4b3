//! The schedule over the plans of Lite and Verified, simulated: when the first verdict comes, when
//! the last, and how many images wait for their evaluation; against the longest chain first.

#[path = "../tests/schedule/simulation.rs"]
mod simulation;

fn main() {
    print!("{}", simulation::table());
}
