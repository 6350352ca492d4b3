//! stub
pub fn page(_r: &super::RunReport) -> String {
    String::new()
}
