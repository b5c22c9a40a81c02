//! Runs a small program with text on its standard input, and never waits for it without end: a layer whose
//! tool hangs must not keep the gate from closing by its other layers.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use crate::fault::ActuatorFault;

/// Runs `program` and gives back its standard output; `limit` after which it is ended.
pub fn run(program: &str, arguments: &[&str], input: &str, limit: Duration) -> Result<String, ActuatorFault> {
    let failed = |source| ActuatorFault::Run { program: program.to_owned(), source };
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
        match receiver.recv_timeout(limit) {
            Ok((true, text, _)) => complaint = text,
            Ok((false, text, true)) => out = text,
            Ok((false, _, false)) => complaint.push_str("its output is not text"),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(ActuatorFault::Timeout { program: program.to_owned(), seconds: limit.as_secs() });
            }
        }
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        Ok(out)
    } else {
        let stderr = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(ActuatorFault::Program { program: program.to_owned(), stderr })
    }
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
        assert!(matches!(
            run("sleep", &["60"], "", Duration::from_millis(50)),
            Err(ActuatorFault::Timeout { .. })
        ));
    }
}
