//! Clients that hang up, and servers that are told to stop.

use super::*;

use rustix::process::{Pid, Signal, kill_process};

fn long() -> Value {
    json!({"prompt": "Once", "max_tokens": 1000, "ignore_eos": true, "temperature": 0})
}

#[test]
fn who_hangs_up_is_not_computed_for() {
    let server = Server::tiny();
    for stream in [false, true] {
        let before = server.metric("cancelled_total");
        let mut body = long();
        body["stream"] = stream.into();
        // As many as fit and some that wait.
        let clients: Vec<TcpStream> = (0..40)
            .map(|_| server.begin("/v1/completions", &body))
            .collect();
        server.wait_until("they are in", |server| {
            server.metric("completions_active") > 0
        });
        drop(clients);
        server.wait_until("nobody is computed for", |server| {
            server.metric("completions_active") == 0 && server.metric("completions_waiting") == 0
        });
        let cancelled = server.metric("cancelled_total") - before;
        assert!(cancelled > 0, "{cancelled} of 40 were cancelled");
        assert!(server.is_idle());
    }
    // What was cancelled leaves no trace in what comes.
    let body = json!({"prompt": "Today is", "max_tokens": 8, "temperature": 0});
    let fresh = Server::tiny();
    let path = "/v1/completions";
    assert_eq!(
        server.ok(path, &body)["choices"],
        fresh.ok(path, &body)["choices"]
    );
}

#[test]
fn a_probe_ends_with_its_client() {
    let server = Server::tiny();
    let body = json!({"prompt": vec!["bat ".repeat(900); 60]});
    let held = server.begin("/v1/modelve/score", &body);
    server.wait_until("it is in", |server| server.metric("probes_total") == 1);
    drop(held);
    let started = Instant::now();
    server.ok("/v1/modelve/next", &json!({"prompt": "Today is"}));
    assert!(started.elapsed() < PATIENCE / 2);
}

fn signal(server: &Server, signal: Signal) {
    kill_process(Pid::from_child(&server.child), signal).unwrap();
}

/// The exit code; it has so long to end.
fn code(server: &mut Server) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_signal_finishes_what_runs_and_refuses_what_comes() {
    for which in [Signal::TERM, Signal::INT] {
        let mut server = Server::tiny();
        let mut body = long();
        body["stream"] = true.into();
        body["max_tokens"] = 400.into();
        body["n"] = 2.into();
        let mut running = server.begin("/v1/completions", &body);
        server.wait_until("it runs", |server| server.metric("completions_active") > 0);
        signal(&server, which);
        // New ones are told so, while the old one goes on to its end.
        let mut refused = None;
        for _ in 0..1000 {
            let Ok(mut stream) = TcpStream::connect(server.address) else {
                break;
            };
            let head = format!(
                "GET /v1/models HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                server.address
            );
            let mut all = Vec::new();
            if stream.write_all(head.as_bytes()).is_ok()
                && stream.read_to_end(&mut all).is_ok()
                && !all.is_empty()
            {
                let answer = Answer::read(&all);
                if answer.status == 503 {
                    refused = Some(answer);
                    break;
                }
            }
        }
        assert!(refused.is_some_and(|answer| answer.header("retry-after") == "1"));
        let mut all = String::new();
        running.read_to_string(&mut all).unwrap();
        assert!(all.contains("data: [DONE]"), "it was cut off");
        assert_eq!(code(&mut server), Some(0));
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::tiny();
    let mut body = long();
    body["n"] = 128.into();
    let running = server.begin("/v1/completions", &body);
    server.wait_until("it runs", |server| server.metric("completions_active") > 0);
    signal(&server, Signal::INT);
    while !server
        .notes
        .recv_timeout(PATIENCE)
        .unwrap()
        .starts_with("finishing")
    {}
    signal(&server, Signal::INT);
    assert_eq!(code(&mut server), Some(130));
    drop(running);
}

#[test]
fn a_server_with_nothing_to_do_ends_at_once() {
    let mut server = Server::tiny();
    // A connection that is kept open is nothing to do.
    let mut idle = server.connect();
    let head = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    idle.write_all(head.as_bytes()).unwrap();
    let mut some = [0; 16];
    idle.read_exact(&mut some).unwrap();
    signal(&server, Signal::TERM);
    assert_eq!(code(&mut server), Some(0));
}
