//! The handlers: each asks who may, and then the one thing that does it.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Schema};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::api::{Applied, Change, Explained, Name, NewSandbox, PolicyText, Sandbox, TargetList};
use crate::problem::{Problem, ProblemKind};
use crate::sandboxes::Sandboxes;
use crate::stream::{self, Filter};

/// The media type of figures (OpenMetrics 1.0).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Shared = Arc<dyn Sandboxes>;

/// What `deny_unknown_fields` means for the kinds of an enumeration.
struct Closed;

impl Modify for Closed {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let schemas = document.components.as_mut().map(|all| &mut all.schemas);
        let attach_to = schemas.and_then(|all| all.get_mut("AttachTo"));
        if let Some(RefOr::T(Schema::OneOf(one_of))) = attach_to {
            for kind in &mut one_of.items {
                if let RefOr::T(Schema::Object(kind)) = kind {
                    kind.additional_properties =
                        Some(Box::new(AdditionalProperties::FreeForm(false)));
                }
            }
        }
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Portcullis",
    description = "Sandboxes of one daemon, over a Unix socket. Who asks is known by the kernel's word on the \
                   peer: the owner of a sandbox sees and changes it, administrators all of them."
))]
struct Document;

/// A JSON body; what is wrong with one is told as a [`Problem`].
#[derive(FromRequest)]
#[from_request(via(Json), rejection(Problem))]
struct Body<T>(T);

/// The query of a request, likewise.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
struct Query<T>(T);

/// A part of the path, likewise.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
struct Path<T>(T);

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Problem {
        not_expected("body", rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        not_expected("query", rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Problem {
        not_expected("path", rejection.status(), rejection.body_text())
    }
}

fn not_expected(part: &str, status: StatusCode, why: String) -> Problem {
    Problem {
        status: status.as_u16(),
        ..Problem::new(
            ProblemKind::BadRequest,
            format!("the {part} is not what is expected"),
        )
        .help(why)
    }
}

/// Whether the caller may use this sandbox. One that it may not is not there for it.
fn admit(sandboxes: &Shared, caller: &Caller, name: &Name) -> Result<(), Problem> {
    match sandboxes.owner(name) {
        Some(owner) if caller.may_use(owner) => Ok(()),
        _ => Err(Problem::not_found(name.as_str())),
    }
}

/// The sandboxes that the caller may see, by name.
#[utoipa::path(
    get,
    path = "/v1/sandboxes",
    operation_id = "list_sandboxes",
    responses((status = 200, description = "The sandboxes", body = Vec<Sandbox>))
)]
async fn list(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Json<Vec<Sandbox>> {
    let mut all = sandboxes.list();
    all.retain(|sandbox| caller.may_use(sandbox.owner));
    Json(all)
}

/// Makes a sandbox and serves it.
#[utoipa::path(
    post,
    path = "/v1/sandboxes",
    operation_id = "create_sandbox",
    request_body = NewSandbox,
    responses(
        (status = 201, description = "It is served", body = Sandbox),
        (status = 400, description = "The request is not understood", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The caller may not attach to that", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The name is taken, or what it is cannot be attached to", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The policy or a label has errors", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "There are too many sandboxes", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot keep it", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn create(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), Problem> {
    let made = sandboxes.create(caller, new).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// One sandbox.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{name}",
    operation_id = "get_sandbox",
    params(("name" = Name, Path, description = "The sandbox")),
    responses(
        (status = 200, description = "The sandbox", body = Sandbox),
        (status = 400, description = "No sandbox can have this name", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of the caller's", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<Name>,
) -> Result<Json<Sandbox>, Problem> {
    admit(&sandboxes, &caller, &name)?;
    let found = sandboxes.get(&name);
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(name.as_str()))
}

/// Changes a sandbox.
#[utoipa::path(
    patch,
    path = "/v1/sandboxes/{name}",
    operation_id = "change_sandbox",
    params(("name" = Name, Path, description = "The sandbox")),
    request_body = Change,
    responses(
        (status = 200, description = "It is changed", body = Sandbox),
        (status = 400, description = "The request is not understood", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of the caller's", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The configuration file names it, or it is cut off", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The change is not understood", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be changed", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn change(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<Name>,
    Body(wanted): Body<Change>,
) -> Result<Json<Sandbox>, Problem> {
    admit(&sandboxes, &caller, &name)?;
    sandboxes.change(&name, wanted).await.map(Json)
}

/// Takes a sandbox's doors away and forgets it. What is inside stays, without network.
#[utoipa::path(
    delete,
    path = "/v1/sandboxes/{name}",
    operation_id = "remove_sandbox",
    params(("name" = Name, Path, description = "The sandbox")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "No sandbox can have this name", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of the caller's", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The configuration file names it", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn remove(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<Name>,
) -> Result<StatusCode, Problem> {
    admit(&sandboxes, &caller, &name)?;
    sandboxes.remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The policy in force, as it was given.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{name}/policy",
    operation_id = "get_policy",
    params(("name" = Name, Path, description = "The sandbox")),
    responses(
        (status = 200, description = "The policy", body = PolicyText),
        (status = 400, description = "No sandbox can have this name", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of the caller's", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn policy(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<Name>,
) -> Result<Json<PolicyText>, Problem> {
    admit(&sandboxes, &caller, &name)?;
    let found = sandboxes.policy(&name);
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(name.as_str()))
}

/// Puts another policy in force. With an error in it nothing changes.
#[utoipa::path(
    put,
    path = "/v1/sandboxes/{name}/policy",
    operation_id = "put_policy",
    params(("name" = Name, Path, description = "The sandbox")),
    request_body = PolicyText,
    responses(
        (status = 200, description = "It is in force", body = Applied),
        (status = 400, description = "The request is not understood", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of the caller's", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The configuration file names it, or it is cut off", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The policy has errors", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be put in force", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn put_policy(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<Name>,
    Body(text): Body<PolicyText>,
) -> Result<Json<Applied>, Problem> {
    admit(&sandboxes, &caller, &name)?;
    sandboxes.put_policy(&name, text).await.map(Json)
}

/// What the policy says to targets, by the code that enforces it.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{name}/explain",
    operation_id = "explain",
    params(("name" = Name, Path, description = "The sandbox")),
    request_body = TargetList,
    responses(
        (status = 200, description = "One for each target, in their order", body = Vec<Explained>),
        (status = 400, description = "The request is not understood", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of the caller's", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is cut off", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body is not what is expected", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn explain(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<Name>,
    Body(list): Body<TargetList>,
) -> Result<Json<Vec<Explained>>, Problem> {
    admit(&sandboxes, &caller, &name)?;
    sandboxes.explain(&name, &list.targets).map(Json)
}

/// A sandbox's decisions from now on, as server-sent events: `decision`, and `missed` with a count.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{name}/decisions",
    operation_id = "follow_sandbox",
    params(("name" = Name, Path, description = "The sandbox"), Filter),
    responses(
        (status = 200, description = "Events, each with a Decision", body = String, content_type = "text/event-stream"),
        (status = 400, description = "The request is not understood", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of the caller's", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn follow(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<Name>,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    admit(&sandboxes, &caller, &name)?;
    known(&filter)?;
    let subscription = sandboxes.follow(&name);
    let subscription = subscription.ok_or_else(|| Problem::not_found(name.as_str()))?;
    Ok(stream::response(vec![(name, subscription)], filter))
}

/// The decisions of all sandboxes that the caller may see now.
#[utoipa::path(
    get,
    path = "/v1/decisions",
    operation_id = "follow",
    params(Filter),
    responses(
        (status = 200, description = "Events, each with a Decision", body = String, content_type = "text/event-stream"),
        (status = 400, description = "The request is not understood", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn follow_all(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    known(&filter)?;
    let mut all = sandboxes.list();
    all.retain(|sandbox| caller.may_use(sandbox.owner));
    let followed = all.into_iter().filter_map(|sandbox| {
        let subscription = sandboxes.follow(&sandbox.name)?;
        Some((sandbox.name, subscription))
    });
    Ok(stream::response(followed.collect(), filter))
}

fn known(filter: &Filter) -> Result<(), Problem> {
    match filter.unknown() {
        None => Ok(()),
        Some(why) => Err(not_expected("query", StatusCode::BAD_REQUEST, why)),
    }
}

/// The daemon's figures as OpenMetrics text. Administrators only.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
        (status = 403, description = "The caller is no administrator", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn metrics(
    State(sandboxes): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    if !caller.is_admin {
        let title = "figures of all sandboxes are for administrators";
        return Err(Problem::new(ProblemKind::Forbidden, title));
    }
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], sandboxes.metrics()).into_response())
}

/// The daemon answers.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "health",
    responses((status = 204, description = "It does"))
)]
async fn health() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Every sandbox is served.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readiness",
    responses(
        (status = 204, description = "They are"),
        (status = 503, description = "Some are cut off", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn ready(State(sandboxes): State<Shared>) -> Result<StatusCode, Problem> {
    match sandboxes.ready() {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(why) => Err(Problem::new(ProblemKind::Failed, why)),
    }
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    responses((status = 200, description = "The document", body = serde_json::Value))
)]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(described().1)
}

async fn no_such_path() -> Problem {
    Problem::new(ProblemKind::NotFound, "there is nothing at this path")
        .help("GET /openapi.json describes the API")
}

async fn no_such_method() -> Response {
    let problem = Problem::new(
        ProblemKind::BadRequest,
        "this path does not take that method",
    );
    let problem = Problem {
        status: StatusCode::METHOD_NOT_ALLOWED.as_u16(),
        ..problem
    };
    problem.into_response()
}

fn described() -> (Router<Shared>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(list, create))
        .routes(routes!(get, change, remove))
        .routes(routes!(policy, put_policy))
        .routes(routes!(explain))
        .routes(routes!(follow))
        .routes(routes!(follow_all))
        .routes(routes!(metrics))
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(openapi))
        .split_for_parts();
    Closed.modify(&mut document);
    (router, document)
}

/// The OpenAPI 3.1 document, as JSON.
///
/// # Errors
/// It cannot be written as JSON, which a test excludes.
pub fn document() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&described().1)
}

/// The API over these sandboxes.
pub(crate) fn router(sandboxes: Shared) -> Router {
    described()
        .0
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(sandboxes)
}
