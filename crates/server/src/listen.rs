//! Connections: accepted one by one, each served by its own task, and shut down in order.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use crate::app::App;

/// Serves until it is told to stop; then finishes running requests and refuses new ones.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(app.config.limits.connections));
    loop {
        tokio::select! {
            stream = accept(&listener) => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    // The connection is closed at once, which tells the client more than silence.
                    continue;
                };
                let served = connection(stream, &app, router.clone(), |c| graceful.watch(c));
                tokio::spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            // An error means that the sender is gone.
            stopped = stop.wait_for(|stop| *stop) => {
                drop(stopped);
                break;
            }
        }
    }
    app.close();
    let mut rest = std::pin::pin!(graceful.shutdown());
    loop {
        tokio::select! {
            () = &mut rest => break,
            stream = accept(&listener) => {
                let served = connection(stream, &app, router.clone(), |c| c);
                tokio::spawn(tokio::time::timeout(Duration::from_secs(5), served));
            }
        }
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Most likely the process is out of file descriptors, which become free again.
                tracing::warn!("cannot take a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

type Connection = http1::Connection<
    TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>,
    TowerToHyperService<Router>,
>;

fn connection<F>(
    stream: TcpStream,
    app: &App,
    router: Router,
    wrap: impl FnOnce(Connection) -> F,
) -> impl Future<Output = ()> + Send + 'static
where
    F: Future<Output = Result<(), hyper::Error>> + Send + 'static,
{
    // A token is a few bytes and must not wait for more.
    drop(stream.set_nodelay(true));
    let limits = &app.config.limits;
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.pause));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head.max(8192))
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        );
    let served = wrap(served);
    async move {
        if let Err(error) = served.await {
            tracing::debug!("a connection ended: {error}");
        }
    }
}
