kuramori = ランサムウェア・故障・災害の後も病院の業務を続けるためのシステム
option-lang = 表示言語: ja または en
option-json = 標準出力に JSON で出力する
option-quiet = 標準エラーへの表示を減らす
option-no-progress = 進捗バーを表示しない

kuramori-doctor = この機器が必要な条件を満たしているか調べる

kuramori-plan = 購入や移行の前に容量と開放時間を見積もる
kuramori-plan-size = 一次バックアップと保管庫の容量、毎晩の開放時間、初回の転送を見積もる
kuramori-plan-size--from = 容量を書いた台帳(TOML)。形式は例を参照
kuramori-plan-size--beds = 組み込みの例(病床数)
kuramori-plan-size--print-register = 見積もりの代わりに、編集できる台帳そのものを表示する
