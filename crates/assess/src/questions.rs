//! The questionnaire: what no list of systems says.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::{AssessError, Result};

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Its key in the file.
    pub key: &'static str,
    /// In Japanese.
    pub ja: &'static str,
    /// In English.
    pub en: &'static str,
}

/// All questions, in the order in which they are asked.
pub const QUESTIONS: [Question; 8] = [
    Question {
        key: "order_decided",
        ja: "復旧順序を院内で決めてある",
        en: "The restore order has been decided",
    },
    Question {
        key: "drill_yearly",
        ja: "年 1 回以上、復元の訓練をしている",
        en: "A restore is drilled at least once a year",
    },
    Question {
        key: "runbook_printed",
        ja: "復旧手順書を印刷して保管している",
        en: "A recovery runbook is printed and kept",
    },
    Question {
        key: "keys_kept",
        ja: "暗号鍵・パスワードを院内ネットワークの外に保管している",
        en: "Keys and passwords are kept outside of the network",
    },
    Question {
        key: "own_accounts",
        ja: "バックアップの管理者は業務の認証基盤と別の認証情報を使う",
        en: "Backup administrators have credentials apart from the directory",
    },
    Question {
        key: "absence_noticed",
        ja: "バックアップが取れなかったことに翌朝までに気づける",
        en: "A missing backup is noticed by the next morning",
    },
    Question {
        key: "clean_known",
        ja: "復元点に汚染がないかを確かめる手段がある",
        en: "Restore points are inspected for contamination",
    },
    Question { key: "second_site", ja: "別の拠点に写しがある", en: "A copy lies at another site" },
];

/// The answers; what is absent is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answers {
    /// The hospital's name.
    pub hospital: String,
    /// 復旧順序
    pub order_decided: Option<bool>,
    /// 訓練
    pub drill_yearly: Option<bool>,
    /// 手順書
    pub runbook_printed: Option<bool>,
    /// 鍵
    pub keys_kept: Option<bool>,
    /// 認証情報
    pub own_accounts: Option<bool>,
    /// 気づき
    pub absence_noticed: Option<bool>,
    /// 汚染
    pub clean_known: Option<bool>,
    /// 別拠点
    pub second_site: Option<bool>,
}

impl Answers {
    /// Reads the questionnaire's TOML.
    ///
    /// # Errors
    /// [`AssessError::Answers`].
    pub fn read(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| AssessError::Answers(error.to_string().trim_end().to_owned()))
    }

    /// An answer by its question's key.
    pub fn get(&self, key: &str) -> Option<bool> {
        match key {
            "order_decided" => self.order_decided,
            "drill_yearly" => self.drill_yearly,
            "runbook_printed" => self.runbook_printed,
            "keys_kept" => self.keys_kept,
            "own_accounts" => self.own_accounts,
            "absence_noticed" => self.absence_noticed,
            "clean_known" => self.clean_known,
            "second_site" => self.second_site,
            _ => None,
        }
    }

    /// Sets an answer by its question's key.
    pub fn set(&mut self, key: &str, answer: Option<bool>) {
        let slot = match key {
            "order_decided" => &mut self.order_decided,
            "drill_yearly" => &mut self.drill_yearly,
            "runbook_printed" => &mut self.runbook_printed,
            "keys_kept" => &mut self.keys_kept,
            "own_accounts" => &mut self.own_accounts,
            "absence_noticed" => &mut self.absence_noticed,
            "clean_known" => &mut self.clean_known,
            "second_site" => &mut self.second_site,
            _ => return,
        };
        *slot = answer;
    }

    /// The file to fill in.
    pub fn form(japanese: bool) -> String {
        let mut text = String::from(if japanese {
            "# はい = true、いいえ = false。分からないものは # のまま残す。\nhospital = \"\"\n"
        } else {
            "# true or false; leave the # where it is not known.\nhospital = \"\"\n"
        });
        for question in QUESTIONS {
            let words = if japanese { question.ja } else { question.en };
            let _ = write!(text, "\n# {words}\n# {} = true\n", question.key);
        }
        text
    }
}
