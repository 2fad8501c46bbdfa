use std::env;
use tiny_http::{Response, Server};

fn main() {
    let port = env::var("PORT").expect("PORT is not set");
    let server = Server::http(format!("0.0.0.0:{port}")).expect("listen");
    for request in server.incoming_requests() {
        let _ = request.respond(Response::from_string("Hello from Rust\n"));
    }
}
