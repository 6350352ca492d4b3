//! stub
use super::RunReport;
#[derive(serde::Serialize)]
pub struct Comparison {}
impl Comparison {
    pub fn text(&self) -> String {
        String::new()
    }
}
pub fn compare(_a: &RunReport, _b: &RunReport) -> Comparison {
    Comparison {}
}
