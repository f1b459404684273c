//! The example `kv`: clients without a server, clients of its server, and the same commands given to
//! `redis-server`.

mod alike;
mod direct;
mod ends;
mod generator;
mod limits;
mod served;
mod wire;
