//! A client whose connections can be changed while it is in use: certificates belong to connections, and the API server looks at theirs with every request.

use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tower::Service;

/// Sends each request through the client in force. Cheap to clone; all clones switch together.
#[derive(Clone)]
pub(crate) struct ClientSwitch {
    current: Arc<RwLock<Client>>,
}

impl ClientSwitch {
    pub(crate) fn new(client: Client) -> Self {
        Self { current: Arc::new(RwLock::new(client)) }
    }

    /// A client over whatever is in force.
    pub(crate) fn client(&self) -> Client {
        let namespace = self.current().default_namespace().to_owned();
        Client::new(self.clone(), namespace)
    }

    /// From now on requests go through this client. Those that are under way go on as they are; a watch ends within its time.
    pub(crate) fn switch(&self, client: Client) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn current(&self) -> Client {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Service<Request<Body>> for ClientSwitch {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, kube::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.current();
        Box::pin(async move { client.send(request).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client whose every answer is this text.
    fn answers(text: &'static str) -> Client {
        let service = tower::service_fn(move |_: Request<Body>| async move {
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(text.as_bytes().to_vec())))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn clients_that_were_handed_out_switch_too() {
        let switch = ClientSwitch::new(answers("one"));
        let client = switch.client();
        let ask = || async { client.request_text(Request::get("/").body(Vec::new()).unwrap()).await.unwrap() };
        assert_eq!(ask().await, "one");
        switch.switch(answers("two"));
        assert_eq!(ask().await, "two");
    }
}
