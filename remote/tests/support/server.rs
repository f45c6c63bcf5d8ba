//! A server that gives what is in an image layout, as a web server and as a registry does, and that does wrong what it is told to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is this status, without what was asked for.
    Status(u16),
    /// The connection ends after so many bytes of the contents.
    Cut(usize),
    /// One bit of the contents is another one.
    Flip,
    /// There are more contents than there should be.
    Longer,
    /// Ranges are ignored, and the connection ends after so many bytes.
    CutWithoutRanges(usize),
    /// Nothing comes.
    Hang,
}

/// A request that was received.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub range: Option<usize>,
    pub authorization: Option<String>,
}

type Plan = Arc<dyn Fn(&Request, usize) -> Fault + Send + Sync>;

/// A server that misbehaves.
pub struct Misbehaving {
    pub port: u16,
    pub requests: Arc<Mutex<Vec<Request>>>,
    /// Keeps the thread going.
    stop: Arc<AtomicUsize>,
}

impl Misbehaving {
    /// Serves the layout in a directory. The plan is asked for each request, with how many there were for the same kind of thing (blobs
    /// of artifacts, or all else) before.
    pub fn new(
        layout: &Path,
        plan: impl Fn(&Request, usize) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicUsize::new(0));
        let plan: Plan = Arc::new(plan);
        let (layout, kept, stopped) = (layout.to_owned(), requests.clone(), stop.clone());
        std::thread::spawn(move || {
            let large = Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) > 0 {
                    return;
                }
                let Ok(stream) = stream else { return };
                let (layout, kept, plan, large) =
                    (layout.clone(), kept.clone(), plan.clone(), large.clone());
                std::thread::spawn(move || serve(stream, &layout, &kept, &plan, &large));
            }
        });
        Self { port, requests, stop }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Where the blobs were asked for from, of those that are large.
    pub fn ranges(&self, blob: &str) -> Vec<usize> {
        let requests = self.requests();
        let blobs = requests.iter().filter(|request| request.path.contains(blob));
        blobs.map(|request| request.range.unwrap_or(0)).collect()
    }
}

impl Drop for Misbehaving {
    fn drop(&mut self) {
        self.stop.store(1, Ordering::SeqCst);
        // Wakes the thread up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Blobs of at least this size are those of artifacts.
pub const LARGE: usize = 64 << 10;

fn serve(
    mut stream: TcpStream,
    layout: &Path,
    kept: &Mutex<Vec<Request>>,
    plan: &Plan,
    large: &AtomicUsize,
) {
    let Some((method, request)) = read(&stream) else { return };
    kept.lock().unwrap().push(request.clone());
    let file = find(layout, &request.path);
    let contents = match &file {
        _ if request.path == "/v2/" => Some(b"{}".to_vec()),
        Some(path) => std::fs::read(path).ok(),
        None => None,
    };
    let is_large = contents.as_ref().is_some_and(|contents| contents.len() >= LARGE);
    // Only what is large is counted: the others are asked for before it.
    let before = if is_large && method == "GET" { large.fetch_add(1, Ordering::SeqCst) } else { 0 };
    let fault = if is_large || !request.path.contains("/blobs/") {
        plan(&request, before)
    } else {
        Fault::None
    };
    let Some(mut contents) = contents else {
        return answer(&mut stream, 404, "", b"", 0);
    };
    let mut cut = usize::MAX;
    let mut range = request.range;
    match fault {
        Fault::None => {}
        Fault::Status(status) => {
            let header = if status == 401 { "WWW-Authenticate: Basic realm=\"x\"\r\n" } else { "" };
            return answer(&mut stream, status, header, b"", 0);
        }
        Fault::Cut(bytes) => cut = bytes,
        Fault::CutWithoutRanges(bytes) => (cut, range) = (bytes, None),
        Fault::Flip => {
            let middle = contents.len() / 2;
            contents[middle] ^= 1;
        }
        Fault::Longer => contents.extend([0; 100]),
        Fault::Hang => {
            std::thread::sleep(Duration::from_secs(30));
            return;
        }
    }
    let kind = if request.path.contains("/manifests/") {
        "Content-Type: application/vnd.oci.image.index.v1+json\r\n"
    } else {
        ""
    };
    let whole = contents.len();
    match range {
        Some(start) if start < whole => {
            let header = format!("{kind}Content-Range: bytes {start}-{}/{whole}\r\n", whole - 1);
            let part = &contents[start..];
            answer(&mut stream, 206, &header, &part[..part.len().min(cut)], part.len());
        }
        Some(_) => answer(&mut stream, 416, "", b"", 0),
        None if method == "HEAD" => answer(&mut stream, 200, kind, b"", whole),
        None => answer(&mut stream, 200, kind, &contents[..whole.min(cut)], whole),
    }
}

fn read(stream: &TcpStream) -> Option<(String, Request)> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { path, range: None, authorization: None };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let start = value.strip_prefix("bytes=")?.split('-').next()?;
                request.range = start.parse().ok();
            }
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some((method, request))
}

/// The file that a path means: `/NAME/...` of a web server, or `/v2/NAME/...` of a registry.
fn find(layout: &Path, path: &str) -> Option<PathBuf> {
    let blob = |digest: &str| layout.join("blobs/sha256").join(digest);
    if let Some((_, digest)) = path.split_once("sha256:").or(path.split_once("/blobs/sha256/")) {
        return Some(blob(digest));
    }
    if let Some((_, tag)) = path.split_once("/manifests/") {
        let index = std::fs::read(layout.join("index.json")).ok()?;
        let index: serde_json::Value = serde_json::from_slice(&index).ok()?;
        let entry = index["manifests"]
            .as_array()?
            .iter()
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag)?;
        return Some(blob(entry["digest"].as_str()?.strip_prefix("sha256:")?));
    }
    Some(layout.join(path.rsplit('/').next()?))
}

fn answer(stream: &mut TcpStream, status: u16, header: &str, contents: &[u8], length: usize) {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nLast-Modified: Wed, 25 Nov 2026 10:00:00 GMT\r\nAccept-Ranges: bytes\r\nConnection: close\r\n{header}\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(contents));
}
