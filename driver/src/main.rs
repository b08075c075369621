//! `wgnet-driver`: reads settings, sets up logging and runs the driver until it is told to stop.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;
use wgnet_driver::config::{Cli, Config, LogFormat};
use wgnet_driver::lines::Lines;
use wgnet_driver::{app, check, clean_up};

/// A wrong setting (sysexits.h): its unit does not try again what cannot get better by itself.
const EX_CONFIG: u8 = 78;

const END_WITHIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(&cli) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("wgnet-driver: {error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    if let Err(error) = log(&config) {
        eprintln!("wgnet-driver: `log` is wrong: {error}");
        return ExitCode::from(EX_CONFIG);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("wgnet-driver: cannot start its threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    if cli.check {
        return runtime.block_on(check::run(&config));
    }
    if let Err(sentence) = check::privileges() {
        eprintln!("wgnet-driver: {sentence}");
        return ExitCode::from(EX_CONFIG);
    }
    if cli.clean_up {
        return runtime.block_on(clean_up::run(&config));
    }
    let outcome = runtime.block_on(run(config));
    // A name that DNS does not answer holds a thread that cannot be told to stop.
    runtime.shutdown_timeout(END_WITHIN);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let cancel = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("Stopping; tunnels and containers go on");
        stop.cancel();
    });
    app::run(config, cancel).await
}

fn log(config: &Config) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(&config.log)?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter);
    match config.log_format {
        LogFormat::Text => {
            subscriber.with_ansi(false).with_writer(|| Lines(std::io::stderr())).init();
        }
        LogFormat::Json => subscriber.json().with_writer(std::io::stderr).init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_does_not_restart_what_only_a_person_can_mend() {
        let unit = include_str!("../../deploy/systemd/wgnet-driver.service");
        let setting = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name));
        let final_codes: Vec<i32> = setting("RestartPreventExitStatus=")
            .expect("some codes are final")
            .split(' ')
            .map(|code| code.parse().unwrap())
            .collect();
        let usage = Cli::try_parse_from(["wgnet-driver", "--backend", "neither"]).unwrap_err();
        assert_eq!(final_codes, [usage.exit_code(), EX_CONFIG.into()]);
        assert_eq!(setting("Restart="), Some("always"));
    }
}
