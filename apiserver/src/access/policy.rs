//! ValidatingAdmissionPolicies: <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>. What they use of CEL is evaluated
//! by the crate that also evaluates the rules of definitions. An expression that fails refuses (`failurePolicy: Fail`).

use std::collections::BTreeMap;

use cel::KubeCelExt as _;
use cel::cel::objects::Key;
use cel::cel::parser::{Expression, Parser};
use cel::cel::{Context, Value};
use k8s_openapi::api::admissionregistration::v1::{NamedRuleWithOperations, ValidatingAdmissionPolicy};
use regex::Regex;
use serde_json::json;

use super::AccessError;
use crate::auth::User;

/// A write that is about to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) user: &'a User,
    /// `CREATE`, `UPDATE` or `DELETE`.
    pub(crate) operation: &'static str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// As it would be stored; none in a delete.
    pub(crate) object: Option<&'a serde_json::Value>,
    /// As it is stored; none in a create.
    pub(crate) old_object: Option<&'a serde_json::Value>,
}

/// A compiled policy.
pub(super) struct Policy {
    name: String,
    rules: Vec<NamedRuleWithOperations>,
    conditions: Vec<Expression>,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
}

struct Validation {
    holds: Expression,
    message: String,
    message_expression: Option<Expression>,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Policy {
    pub(super) fn compile(policy: &ValidatingAdmissionPolicy) -> Result<Self, AccessError> {
        let name = policy.metadata.name.clone().unwrap_or_default();
        let compile = |text: &String| compile(&name, text);
        let spec = policy.spec.clone().unwrap_or_default();
        let conditions = spec.match_conditions.iter().flatten().map(|one| compile(&one.expression));
        let variables = spec.variables.iter().flatten().map(|one| Ok((one.name.clone(), compile(&one.expression)?)));
        let validations = spec.validations.iter().flatten().map(|one| {
            let message =
                one.message.clone().unwrap_or_else(|| format!("failed expression: {}", one.expression.trim()));
            let message_expression = one.message_expression.as_ref().map(compile).transpose()?;
            Ok(Validation { holds: compile(&one.expression)?, message, message_expression })
        });
        Ok(Self {
            rules: spec.match_constraints.and_then(|constraints| constraints.resource_rules).unwrap_or_default(),
            conditions: conditions.collect::<Result<_, _>>()?,
            variables: variables.collect::<Result<_, AccessError>>()?,
            validations: validations.collect::<Result<_, AccessError>>()?,
            name: name.clone(),
        })
    }

    /// What the policy says against an attempt; none if nothing.
    pub(super) fn objection(&self, attempt: &Attempt<'_>) -> Option<String> {
        if !self.rules.iter().any(|rule| is_about(rule, attempt)) {
            return None;
        }
        let mut context = Context::default().with_all();
        let null = serde_json::Value::Null;
        context.add_variable_from_value("object", to_cel(attempt.object.unwrap_or(&null)));
        context.add_variable_from_value("oldObject", to_cel(attempt.old_object.unwrap_or(&null)));
        context.add_variable_from_value("request", to_cel(&request(attempt)));
        let is_true = |expression: &Expression, context: &Context<'_>| {
            Value::resolve(expression, context) == Ok(Value::Bool(true))
        };
        // A condition that fails is no way past the policy.
        let is_false = |expression: &Expression| Value::resolve(expression, &context) == Ok(Value::Bool(false));
        if self.conditions.iter().any(is_false) {
            return None;
        }
        let mut variables = BTreeMap::new();
        for (name, expression) in &self.variables {
            // One that has no value here fails the expressions that use it.
            if let Ok(value) = Value::resolve(expression, &context)
                && !matches!(value, Value::Opaque(_) | Value::Function(..))
            {
                variables.insert(name.clone(), value);
                context.add_variable_from_value("variables", map(&variables));
            }
        }
        let broken = self.validations.iter().find(|validation| !is_true(&validation.holds, &context))?;
        let said =
            broken.message_expression.as_ref().and_then(|expression| match Value::resolve(expression, &context) {
                Ok(Value::String(text)) => Some(text.to_string()),
                _ => None,
            });
        let name = &self.name;
        let message = said.unwrap_or_else(|| broken.message.clone());
        Some(format!("ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: {message}"))
    }
}

/// Compiles an expression. The crate takes `a.?b` of an `a` without `b` for an error; `a[?'b']`, which means the same, it reads right.
fn compile(policy: &str, text: &str) -> Result<Expression, AccessError> {
    let failed =
        |message: String| AccessError::Expression { policy: policy.to_owned(), expression: text.to_owned(), message };
    let optional = Regex::new(r"\.\?([A-Za-z_][A-Za-z0-9_]*)").map_err(|error| failed(error.to_string()))?;
    let indexed = optional.replace_all(text, "[?'$1']");
    Parser::new().enable_optional_syntax(true).parse(&indexed).map_err(|error| failed(error.to_string()))
}

fn map(variables: &BTreeMap<String, Value>) -> Value {
    let entries = variables.iter().map(|(name, value)| (Key::from(name.clone()), value.clone()));
    Value::from(entries.collect::<std::collections::HashMap<_, _>>())
}

fn to_cel(value: &serde_json::Value) -> Value {
    // JSON has nothing that CEL has not.
    cel::cel::to_value(value).unwrap_or(Value::Null)
}

fn request(attempt: &Attempt<'_>) -> serde_json::Value {
    let user = attempt.user;
    let mut request = json!({
        "operation": attempt.operation, "name": attempt.name, "namespace": attempt.namespace,
        "userInfo": user.info(),
    });
    if !attempt.subresource.is_empty() {
        request["subResource"] = json!(attempt.subresource);
    }
    request
}

fn is_about(rule: &NamedRuleWithOperations, attempt: &Attempt<'_>) -> bool {
    let has = |list: Option<&Vec<String>>, wanted: &str| {
        list.is_some_and(|list| list.iter().any(|one| one == wanted || one == "*"))
    };
    let resource = if attempt.subresource.is_empty() {
        attempt.resource.to_owned()
    } else {
        format!("{}/{}", attempt.resource, attempt.subresource)
    };
    let any_subresource = format!("{}/*", attempt.resource);
    has(rule.operations.as_ref(), attempt.operation)
        && has(rule.api_groups.as_ref(), attempt.group)
        && (has(rule.resources.as_ref(), &resource)
            || !attempt.subresource.is_empty() && has(rule.resources.as_ref(), &any_subresource))
}
