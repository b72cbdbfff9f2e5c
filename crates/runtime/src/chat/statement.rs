//! The statements of templates.

use std::cell::RefCell;
use std::rc::Rc;

use minijinja::machinery::Span;
use minijinja::machinery::ast::{self, Expr, Stmt};

use super::eval::{Result, Run};
use super::filter;
use super::text::Text;
use super::value::{Caller, Loop, Macro, Value};

/// How a sequence of statements ended.
#[derive(PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Break,
    Continue,
}

impl<'t> Run<'t> {
    pub(super) fn statements(&mut self, body: &'t [Stmt<'t>]) -> Result<Flow> {
        for statement in body {
            let flow = self.statement(statement)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    pub(super) fn statement(&mut self, statement: &'t Stmt<'t>) -> Result<Flow> {
        let line = line_of(statement);
        self.deeper(|run| run.statement_inner(statement))
            .map_err(|mut fault| {
                fault.line = fault.line.or(line);
                fault
            })
    }

    fn statement_inner(&mut self, statement: &'t Stmt<'t>) -> Result<Flow> {
        match statement {
            Stmt::Template(node) => return self.statements(&node.children),
            Stmt::EmitRaw(node) => self.emit(&Text::own(node.raw))?,
            Stmt::EmitExpr(node) => {
                let value = self.eval(&node.expr)?;
                let text = self.text_of(&value)?;
                self.emit(&text)?;
            }
            Stmt::IfCond(_) => return self.choose(statement),
            Stmt::ForLoop(node) => {
                let items = self.eval(&node.iter)?;
                self.run_loop(node, &items)?;
            }
            Stmt::Set(node) => {
                let value = self.eval(&node.expr)?;
                self.assign(&node.target, value)?;
            }
            Stmt::SetBlock(node) => {
                let text = self.within_scope(|run| run.capture(&node.body))?;
                let value = self.filtered(node.filter.as_ref(), Value::Text(text))?;
                self.assign(&node.target, value)?;
            }
            Stmt::FilterBlock(node) => {
                let text = self.within_scope(|run| run.capture(&node.body))?;
                let value = self.filtered(Some(&node.filter), Value::Text(text))?;
                let text = self.text_of(&value)?;
                self.emit(&text)?;
            }
            Stmt::WithBlock(node) => {
                let mut values = Vec::new();
                for (target, value) in &node.assignments {
                    values.push((target, self.eval(value)?));
                }
                return self.within_scope(|run| {
                    for (target, value) in values {
                        run.assign(target, value)?;
                    }
                    run.statements(&node.body)
                });
            }
            Stmt::AutoEscape(node) => return self.statements(&node.body),
            Stmt::Macro(node) => {
                let node: &'t ast::Macro<'t> = node;
                let scopes = self.scopes.len();
                self.set(node.name, Value::Macro(Rc::new(Macro { node, scopes })));
            }
            Stmt::CallBlock(node) => {
                let caller = Value::Caller(Rc::new(Caller {
                    node: &node.macro_decl,
                    scopes: self.scopes.clone(),
                }));
                let mut args = self.args(&node.call.args)?;
                args.named.push((Text::own("caller"), caller));
                let callee = self.eval(&node.call.expr)?;
                let value = self.call(&callee, args)?;
                let text = self.text_of(&value)?;
                self.emit(&text)?;
            }
            Stmt::Continue(_) => return Ok(Flow::Continue),
            Stmt::Break(_) => return Ok(Flow::Break),
            _ => return Err("it uses a statement that chat templates do not have".into()),
        }
        Ok(Flow::On)
    }

    /// Runs an `if`. A chain of `elif` is followed in a loop, not by recursion.
    fn choose(&mut self, statement: &'t Stmt<'t>) -> Result<Flow> {
        let mut statement = statement;
        while let Stmt::IfCond(node) = statement {
            self.step(1)?;
            if self.eval(&node.expr)?.is_true() {
                return self.statements(&node.true_body);
            }
            match &node.false_body[..] {
                [only @ Stmt::IfCond(_)] => statement = only,
                body => return self.statements(body),
            }
        }
        Ok(Flow::On)
    }

    pub(super) fn run_loop(&mut self, node: &'t ast::ForLoop<'t>, items: &Value<'t>) -> Result<()> {
        let mut items = self.items(items)?;
        if let Some(filter) = &node.filter_expr {
            let mut kept = Vec::new();
            for item in items.iter() {
                let keep = self.within_scope(|run| {
                    run.assign(&node.target, item.clone())?;
                    run.eval(filter)
                })?;
                if keep.is_true() {
                    kept.push(item.clone());
                }
            }
            items = Rc::new(kept);
        }
        if items.is_empty() {
            return self
                .within_scope(|run| run.statements(&node.else_body))
                .map(drop);
        }
        self.loops += 1;
        let last = Rc::new(RefCell::new(None));
        let mut result = Ok(());
        for (index, item) in items.iter().enumerate() {
            let this = Loop {
                items: Rc::clone(&items),
                index,
                depth: self.loops,
                last: RefCell::new(last.borrow_mut().take()),
                node: node.recursive.then_some(node),
            };
            let this = Rc::new(this);
            let flow = self.within_scope(|run| {
                run.assign(&node.target, item.clone())?;
                run.set("loop", Value::Loop(Rc::clone(&this)));
                run.step(1)?;
                run.statements(&node.body)
            });
            *last.borrow_mut() = this.last.borrow_mut().take();
            match flow {
                Ok(Flow::Break) => break,
                Ok(_) => {}
                Err(fault) => {
                    result = Err(fault);
                    break;
                }
            }
        }
        self.loops -= 1;
        result
    }

    fn assign(&mut self, target: &'t Expr<'t>, value: Value<'t>) -> Result<()> {
        match target {
            Expr::Var(var) => self.set(var.id, value),
            Expr::List(list) => {
                let items = self.items(&value)?;
                if items.len() != list.items.len() {
                    let (want, have) = (list.items.len(), items.len());
                    return Err(format!("{want} values are expected, not {have}").into());
                }
                for (target, item) in list.items.iter().zip(items.iter()) {
                    self.assign(target, item.clone())?;
                }
            }
            Expr::GetAttr(attr) => match self.eval(&attr.expr)? {
                Value::Namespace(map) => {
                    let key = Value::own(attr.name);
                    let mut map = map.borrow_mut();
                    match map.iter_mut().find(|(k, _)| *k == key) {
                        Some((_, place)) => *place = value,
                        None => map.push((key, value)),
                    }
                }
                other => {
                    let kind = other.kind();
                    return Err(format!("a member of {kind} cannot be set").into());
                }
            },
            _ => return Err("this cannot be set".into()),
        }
        Ok(())
    }

    fn filtered(&mut self, filter: Option<&'t Expr<'t>>, value: Value<'t>) -> Result<Value<'t>> {
        match filter {
            None => Ok(value),
            Some(Expr::Filter(node)) => {
                let value = self.filtered(node.expr.as_ref(), value)?;
                let args = self.args(&node.args)?;
                filter::apply(self, node.name, value, &args)
            }
            Some(_) => Err("a filter is expected".into()),
        }
    }
}

fn line_of(statement: &Stmt<'_>) -> Option<u16> {
    let span: Span = match statement {
        Stmt::EmitExpr(node) => node.span(),
        Stmt::ForLoop(node) => node.span(),
        Stmt::IfCond(node) => node.span(),
        Stmt::Set(node) => node.span(),
        Stmt::SetBlock(node) => node.span(),
        Stmt::CallBlock(node) => node.span(),
        Stmt::WithBlock(node) => node.span(),
        Stmt::FilterBlock(node) => node.span(),
        _ => return None,
    };
    Some(span.start_line)
}
