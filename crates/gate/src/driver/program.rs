//! Runs a small program with text on its standard input, and never waits for it without end: a layer whose
//! tool hangs, or closes its output and stays, must not keep the gate from trying again.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock};

use crate::fault::ActuatorFault;

/// Runs `program` and gives back its standard output; `limit` after which it is ended.
pub(super) fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> Result<String, ActuatorFault> {
    let failed = |source| ActuatorFault::Run { program: program.to_owned(), source };
    let end = SystemClock.boot() + limit;
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let text = input.to_owned();
    std::thread::spawn(move || {
        if let Some(pipe) = stdin.as_mut() {
            // A program that ends early closes the pipe; its exit status tells the story.
            let _ = pipe.write_all(text.as_bytes());
        }
    });
    let (sender, receiver) = mpsc::channel();
    let errors = sender.clone();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.as_mut().map_or(Ok(0), |pipe| pipe.read_to_string(&mut text));
        let _ = sender.send((false, text, read.is_ok()));
    });
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stderr.as_mut().map_or(Ok(0), |pipe| pipe.read_to_string(&mut text));
        let _ = errors.send((true, text, read.is_ok()));
    });
    let (mut out, mut complaint) = (String::new(), String::new());
    for _ in 0..2 {
        match receiver.recv_timeout(end.saturating_sub(SystemClock.boot())) {
            Ok((true, text, _)) => complaint = text,
            Ok((false, text, true)) => out = text,
            Ok((false, _, false)) => complaint.push_str("its output is not text"),
            Err(_) => return Err(abandon(child, program, limit)),
        }
    }
    // A program may close its output and stay.
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if SystemClock.boot() >= end => return Err(abandon(child, program, limit)),
            None => SystemClock.sleep(Duration::from_millis(1)),
        }
    };
    if status.success() {
        Ok(out)
    } else {
        let stderr = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(ActuatorFault::Program { program: program.to_owned(), stderr })
    }
}

/// Ends it. Collecting what is left of it is another thread's work: a program that hangs inside the kernel
/// does not end at once.
fn abandon(mut child: Child, program: &str, limit: Duration) -> ActuatorFault {
    let _ = child.kill();
    std::thread::spawn(move || child.wait());
    ActuatorFault::Timeout { program: program.to_owned(), seconds: limit.as_secs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_failure_and_hanging_are_told_apart() {
        let second = Duration::from_secs(20);
        assert_eq!(run("cat", &[], "abc", second).unwrap(), "abc");
        assert!(matches!(run("sh", &["-c", "echo no >&2; exit 3"], "", second),
            Err(ActuatorFault::Program { stderr, .. }) if stderr == "no"));
        assert!(matches!(run("/no/such/program", &[], "", second), Err(ActuatorFault::Run { .. })));
        for hangs in ["exec sleep 60", "exec >&- 2>&-; exec sleep 60", "sleep 60 & exec sleep 60"] {
            let start = SystemClock.boot();
            let answer = run("sh", &["-c", hangs], "", Duration::from_millis(50));
            assert!(matches!(answer, Err(ActuatorFault::Timeout { .. })), "{hangs}: {answer:?}");
            assert!(SystemClock.boot().saturating_sub(start) < Duration::from_secs(10), "{hangs}");
        }
    }
}
