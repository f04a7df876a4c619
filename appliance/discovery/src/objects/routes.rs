//! The fields that are read of routes, named as in the API (gateway.networking.k8s.io/v1).

use serde::de::SeqAccess;

use super::lax::{Lax, Shape};
use super::slim::{List, kinds, slim};
use super::{ConditionBody, Kind, LocalReferenceBody, Meta};

/// Filters of a backend, which are those that a rule may have.
#[derive(Clone, Debug, Default)]
pub(crate) struct SameFilters(pub(crate) List<FilterBody>);

impl Shape for SameFilters {
    fn from_list<'de, A: SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        Ok(List::from_list(list)?.map(Self))
    }
}

slim! {
    /// HTTPRoute.
    HttpRouteBody { metadata: Meta, spec: HttpRouteSpec, status: RouteStatusBody }
    /// `HTTPRoute.spec`.
    HttpRouteSpec {
        parent_refs: List<RouteParentBody>,
        hostnames: List<String>,
        rules: List<HttpRouteRule>,
    }
    /// `HTTPRoute.spec.rules[]`.
    HttpRouteRule {
        name: String,
        matches: List<HttpMatchBody>,
        filters: List<FilterBody>,
        backend_refs: List<BackendRefBody>,
        timeouts: TimeoutsBody,
        retry: RetryBody,
        session_persistence: SessionBody,
    }
    /// `spec.rules[].sessionPersistence`.
    SessionBody {
        session_name: String,
        absolute_timeout: String,
        idle_timeout: String,
        #[serde(rename = "type")]
        session_type: String,
        cookie_config: SessionCookieBody,
    }
    /// `spec.rules[].sessionPersistence.cookieConfig`.
    SessionCookieBody { lifetime_type: String }
    /// `HTTPRoute.spec.rules[].matches[]`.
    HttpMatchBody {
        path: PathBody,
        headers: List<FieldBody>,
        query_params: List<FieldBody>,
        method: String,
    }
    /// `HTTPRoute.spec.rules[].matches[].path`.
    PathBody {
        value: String,
        #[serde(rename = "type")]
        match_type: String,
    }
    /// A header field or a query parameter of a match.
    FieldBody {
        name: String,
        value: String,
        #[serde(rename = "type")]
        match_type: String,
    }
    /// `HTTPRoute.spec.rules[].timeouts`.
    TimeoutsBody { request: String, backend_request: String }
    /// `HTTPRoute.spec.rules[].retry`.
    RetryBody { codes: List<i64>, attempts: i64, backoff: String }

    /// GRPCRoute.
    GrpcRouteBody { metadata: Meta, spec: GrpcRouteSpec, status: RouteStatusBody }
    /// `GRPCRoute.spec`.
    GrpcRouteSpec {
        parent_refs: List<RouteParentBody>,
        hostnames: List<String>,
        rules: List<GrpcRouteRule>,
    }
    /// `GRPCRoute.spec.rules[]`.
    GrpcRouteRule {
        name: String,
        matches: List<GrpcMatchBody>,
        filters: List<GrpcFilterBody>,
        backend_refs: List<BackendRefBody>,
        session_persistence: SessionBody,
    }
    /// `GRPCRoute.spec.rules[].matches[]`.
    GrpcMatchBody { method: GrpcMethodBody, headers: List<FieldBody> }
    /// `GRPCRoute.spec.rules[].matches[].method`.
    GrpcMethodBody {
        service: String,
        method: String,
        #[serde(rename = "type")]
        match_type: String,
    }

    /// TLSRoute.
    TlsRouteBody { metadata: Meta, spec: TlsRouteSpec, status: RouteStatusBody }
    /// `TLSRoute.spec`.
    TlsRouteSpec {
        parent_refs: List<RouteParentBody>,
        hostnames: List<String>,
        rules: List<StreamRouteRule>,
    }
    /// TCPRoute.
    TcpRouteBody { metadata: Meta, spec: StreamRouteSpec, status: RouteStatusBody }
    /// UDPRoute.
    UdpRouteBody { metadata: Meta, spec: StreamRouteSpec, status: RouteStatusBody }
    /// `TCPRoute.spec`, `UDPRoute.spec`.
    StreamRouteSpec { parent_refs: List<RouteParentBody>, rules: List<StreamRouteRule> }
    /// `spec.rules[]` of a TLSRoute, TCPRoute or UDPRoute.
    StreamRouteRule { name: String, backend_refs: List<StreamBackendBody> }

    /// `spec.parentRefs[]`, and where a status repeats it.
    RouteParentBody {
        group: String,
        kind: String,
        namespace: String,
        name: String,
        section_name: String,
        port: i64,
    }
    /// `backendRefs[]` of an HTTPRoute or GRPCRoute.
    BackendRefBody {
        group: String,
        kind: String,
        name: String,
        namespace: String,
        port: i64,
        weight: i64,
        filters: SameFilters,
    }
    /// `backendRefs[]` of the other routes.
    StreamBackendBody {
        group: String,
        kind: String,
        name: String,
        namespace: String,
        port: i64,
        weight: i64,
    }

    /// `filters[]` of an HTTPRoute; those of a GRPCRoute are fewer, and read as these.
    FilterBody {
        request_header_modifier: HeaderModifier,
        response_header_modifier: HeaderModifier,
        request_mirror: RequestMirror,
        request_redirect: RequestRedirect,
        url_rewrite: UrlRewrite,
        cors: CorsBody,
        extension_ref: LocalReferenceBody,
        #[serde(rename = "type")]
        filter_type: String,
    }
    /// `filters[]` of a GRPCRoute.
    GrpcFilterBody {
        request_header_modifier: HeaderModifier,
        response_header_modifier: HeaderModifier,
        request_mirror: RequestMirror,
        extension_ref: LocalReferenceBody,
        #[serde(rename = "type")]
        filter_type: String,
    }
    /// `requestHeaderModifier`, `responseHeaderModifier`.
    HeaderModifier { set: List<HeaderBody>, add: List<HeaderBody>, remove: List<String> }
    /// A header field.
    HeaderBody { name: String, value: String }
    /// `requestMirror`.
    RequestMirror { backend_ref: MirrorBackend, percent: i64, fraction: FractionBody }
    /// `requestMirror.backendRef`.
    MirrorBackend { group: String, kind: String, name: String, namespace: String, port: i64 }
    /// `requestMirror.fraction`.
    FractionBody { numerator: i64, denominator: i64 }
    /// `requestRedirect`.
    RequestRedirect {
        scheme: String,
        hostname: String,
        path: PathModifier,
        port: i64,
        status_code: i64,
    }
    /// `urlRewrite`.
    UrlRewrite { hostname: String, path: PathModifier }
    /// `path` of a redirect or rewrite.
    PathModifier {
        replace_full_path: String,
        replace_prefix_match: String,
        #[serde(rename = "type")]
        modifier_type: String,
    }
    /// `cors`.
    CorsBody {
        allow_origins: List<String>,
        allow_credentials: bool,
        allow_methods: List<String>,
        allow_headers: List<String>,
        expose_headers: List<String>,
        max_age: i64,
    }

    /// `status` of a route.
    RouteStatusBody { parents: List<RouteParentStatus> }
    /// `status.parents[]`.
    RouteParentStatus {
        parent_ref: RouteParentBody,
        controller_name: String,
        conditions: List<ConditionBody>,
    }
}

kinds! {
    HttpRouteBody: "gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes";
    GrpcRouteBody: "gateway.networking.k8s.io", "v1", "GRPCRoute", "grpcroutes";
    TlsRouteBody: "gateway.networking.k8s.io", "v1", "TLSRoute", "tlsroutes";
    TcpRouteBody: "gateway.networking.k8s.io", "v1", "TCPRoute", "tcproutes";
    UdpRouteBody: "gateway.networking.k8s.io", "v1", "UDPRoute", "udproutes";
}

impl From<&GrpcFilterBody> for FilterBody {
    fn from(filter: &GrpcFilterBody) -> Self {
        let filter = filter.clone();
        Self {
            request_header_modifier: filter.request_header_modifier,
            response_header_modifier: filter.response_header_modifier,
            request_mirror: filter.request_mirror,
            extension_ref: filter.extension_ref,
            filter_type: filter.filter_type,
            ..Self::default()
        }
    }
}

/// A kind of route at layer 4 or of TLS: what is read of it is the same.
pub(crate) trait StreamRoute: Kind {
    fn parent_refs(&self) -> &[Lax<RouteParentBody>];
    fn hostnames(&self) -> &[Lax<String>];
    fn rules(&self) -> &[Lax<StreamRouteRule>];
    fn parents(&self) -> &Lax<RouteStatusBody>;
}

macro_rules! stream_routes {
    ($($body:ty, $hostnames:expr;)*) => {$(
        impl StreamRoute for $body {
            fn parent_refs(&self) -> &[Lax<RouteParentBody>] {
                self.spec.get().map(|spec| spec.parent_refs.elements()).unwrap_or_default()
            }

            fn hostnames(&self) -> &[Lax<String>] {
                let of: fn(&Self) -> &[Lax<String>] = $hostnames;
                of(self)
            }

            fn rules(&self) -> &[Lax<StreamRouteRule>] {
                self.spec.get().map(|spec| spec.rules.elements()).unwrap_or_default()
            }

            fn parents(&self) -> &Lax<RouteStatusBody> {
                &self.status
            }
        }
    )*};
}

stream_routes! {
    TlsRouteBody, |body| body.spec.get().map(|spec| spec.hostnames.elements()).unwrap_or_default();
    TcpRouteBody, |_| &[];
    UdpRouteBody, |_| &[];
}
