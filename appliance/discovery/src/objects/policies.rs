//! The fields that are read of our own policies, named as in their API (haflinger.dev/v1alpha1). The
//! inventory's `[site.requests]` and `[site.backends]` have the same, but for the targets, with
//! names in snake case.

use super::lax::Shape;
use super::slim::{List, kinds, slim};
use super::{CorsBody, Meta, PolicyStatusBody, PolicyTarget, RetryBody, SessionBody, TimeoutsBody};

/// Bytes: a number, or text with `Ki`, `Mi` or `Gi` (Kubernetes' quantities, as far as they are of
/// use here). What is no size is kept for what is said of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Size(pub(crate) Result<u64, String>);

impl Shape for Size {
    fn from_integer(value: i64) -> Option<Self> {
        Some(Self(u64::try_from(value).map_err(|_| value.to_string())))
    }

    fn from_text(text: &str) -> Option<Self> {
        let unit = |unit: &str| text.strip_suffix(unit);
        let (number, shift) = [("Ki", 10), ("Mi", 20), ("Gi", 30)]
            .into_iter()
            .find_map(|(name, shift)| Some((unit(name)?, shift)))
            .unwrap_or((text, 0));
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let bytes = number.parse::<u64>().ok().filter(|_| is_number);
        let bytes = bytes.and_then(|number| number.checked_mul(1 << shift));
        Some(Self(bytes.ok_or_else(|| text.to_owned())))
    }
}

slim! {
    /// RequestPolicy.
    RequestPolicyBody { metadata: Meta, spec: RequestWishesBody, status: PolicyStatusBody }
    /// `RequestPolicy.spec`.
    RequestWishesBody {
        target_refs: List<PolicyTarget>,
        clients: ClientsBody,
        rates: List<RateBody>,
        users: UsersBody,
        tokens: TokensBody,
        authorizer: AuthorizerBody,
        body_max: Size,
        cors: CorsBody,
        timeouts: TimeoutsBody,
        retry: RetryBody,
        header_max: Size,
        answer_max: Size,
        compression: CompressionBody,
        error_pages: ErrorPagesBody,
        maintenance: MaintenanceBody,
        session_persistence: SessionBody,
    }
    /// `RequestPolicy.spec.compression`.
    CompressionBody { codings: List<String>, types: List<String>, min_size: Size, effort: String }
    /// `RequestPolicy.spec.errorPages`.
    ErrorPagesBody { intercept: bool, pages: List<ErrorPageBody> }
    /// `RequestPolicy.spec.errorPages.pages[]`.
    ErrorPageBody { statuses: List<String>, content_type: String, body: String }
    /// `RequestPolicy.spec.maintenance`.
    MaintenanceBody {
        retry_after: String,
        content_type: String,
        body: String,
        except: List<String>,
    }
    /// `RequestPolicy.spec.clients`.
    ClientsBody { allow: List<String>, deny: List<String> }
    /// `RequestPolicy.spec.rates[]`.
    RateBody {
        requests: i64,
        period: String,
        burst: i64,
        per: String,
        header: String,
        status: i64,
    }

    /// `RequestPolicy.spec.users`.
    UsersBody { secret: String, realm: String, user_header: String, pass_on: bool }
    /// `RequestPolicy.spec.tokens`.
    TokensBody {
        realm: String,
        issuer: String,
        audiences: List<String>,
        algorithms: List<String>,
        keys: String,
        keys_url: String,
        refresh: String,
        leeway: String,
        header: String,
        cookie: String,
        parameter: String,
        claims: List<ClaimBody>,
        headers: List<ClaimHeaderBody>,
        user_claim: String,
        pass_on: bool,
    }
    /// `RequestPolicy.spec.tokens.claims[]`.
    ClaimBody { name: String, values: List<String> }
    /// `RequestPolicy.spec.tokens.headers[]`.
    ClaimHeaderBody { claim: String, header: String }
    /// `RequestPolicy.spec.authorizer`.
    AuthorizerBody {
        url: String,
        method: String,
        request_headers: List<String>,
        backend_headers: List<String>,
        refusal_headers: List<String>,
        cookies: bool,
        sign_in: String,
        sign_in_back: String,
        timeout: String,
        fail_open: bool,
    }

    /// BackendPolicy.
    BackendPolicyBody { metadata: Meta, spec: BackendWishesBody, status: PolicyStatusBody }
    /// `BackendPolicy.spec`.
    BackendWishesBody { target_refs: List<PolicyTarget>, protocol: String }
}

kinds! {
    RequestPolicyBody: "haflinger.dev", "v1alpha1", "RequestPolicy", "requestpolicies";
    BackendPolicyBody: "haflinger.dev", "v1alpha1", "BackendPolicy", "backendpolicies";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_or_have_a_unit_of_1024() {
        let read = |text: &str| Size::from_text(text).and_then(|size| size.0.ok());
        assert_eq!(read("12"), Some(12));
        assert_eq!(read("8Ki"), Some(8 << 10));
        assert_eq!(read("8Mi"), Some(8 << 20));
        assert_eq!(read("2Gi"), Some(2 << 30));
        for odd in
            ["", "Mi", "8M", "8 Mi", "-1", "+1", "1.5Mi", "99999999999999999999", "99999999999Gi"]
        {
            assert_eq!(read(odd), None, "{odd}");
        }
        assert_eq!(Size::from_integer(-1).map(|size| size.0.is_err()), Some(true));
    }
}
