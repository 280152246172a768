"""Short Chinese sentences about the weather and daily life."""

from __future__ import annotations

import random

from .core import expand

FINE = "今天天气真不错！"

WEATHER = [
    "今天天气[很|特别|非常][好|暖和|凉快]，{plan}。",
    "今天天气[很|有点|特别|非常][冷，记得多穿衣服|热，出门要带水|冷，我们在家喝茶吧|热，我们去游泳吧]。",
    "今天天气真[好|冷|热|舒服]！",
    "今天天气真不错，{plan}。",
    "今天天气真不错！{plan}。",
    "[昨天|前天|昨天晚上]下了[一场大雨|一天的雨|一场雪|小雨]，[路上都是水|空气很新鲜|院子里很安静|路有点滑]。",
    "[明天|后天|今天晚上|周末]会[下雨|下雪|刮风|降温]，[出门记得带伞|出门要多穿衣服|路上要小心|我们就在家里看书吧]。",
    "外面正在[下雨|下雪|刮大风|打雷]，[我们等一会儿再走吧|孩子们都在家里玩|小猫躲在床下|街上没有什么人]。",
    "天气预报说[明天|后天|下午|晚上][有雨|有雪|是晴天|会变冷|有大风]。",
    "[春天到了，花都开了|夏天到了，天气很热|秋天到了，树叶变黄了|冬天到了，河水结冰了]。",
    "[太阳出来了|雨停了|雪停了|风小了|天晴了]，{plan}。",
    "[早上|中午|傍晚|夜里]的[风|空气|天空|月亮|阳光][很凉快|很舒服|真美|让人高兴]。",
]
PLANS = [
    "我们去公园走走吧",
    "孩子们在外面玩",
    "我想出去骑车",
    "我们去河边钓鱼吧",
    "大家都很高兴",
    "我们一起去爬山吧",
    "妈妈在院子里晒衣服",
    "奶奶在门口晒太阳",
    "我们去放风筝吧",
]
PEOPLE = ["我", "妈妈", "爸爸", "爷爷", "奶奶", "妹妹", "哥哥", "弟弟", "姐姐", "小明", "小红", "老师", "我的朋友"]
LIFE = [
    "[早上|每天早上|今天早上]，{who}[喝了一杯牛奶|吃了两个鸡蛋|吃了一碗面条|跑了三公里|坐公共汽车出门|骑车出门|给花浇了水]。",
    "[中午|今天中午]，{who}[吃了米饭和鱼|喝了一碗汤|睡了一会儿|和朋友一起吃饭|在饭馆吃了饺子]。",
    "[晚上|每天晚上|昨天晚上]，{who}[看了一本书|听了一会儿音乐|给朋友打了电话|写了一封信|很早就睡了|和家人一起看电视]。",
    "[周末|星期六|星期天]，{who}[去看了一场电影|去超市买了水果|在家打扫房间|学做了一个蛋糕|去看了老朋友]。",
    "{who}在[厨房里做饭|厨房里洗碗|花园里浇花|公园里散步|图书馆看书|房间里写信|商店里买苹果|河边钓鱼|车站等车|桌子旁边喝茶]。",
    "因为[下雨了，所以{who}没有出门|天气很冷，所以{who}穿了大衣|太晚了，所以{who}坐车回家|很累，所以{who}早早地睡了|饿了，所以{who}做了一碗面]。",
    "虽然[很累，但是{who}很高兴|下着雨，但是{who}还是去跑步了|路很远，但是{who}走着去|天很冷，但是{who}不怕]。",
    "[小猫|小狗|小兔子]在[窗台上睡着了|树下玩球|院子里跑来跑去|花园里找吃的]。",
    "[小鸟在[屋顶上|树上|窗外]唱歌|小鱼在[水里|河里|池塘里]游来游去]。",
    "{who}[喜欢|很喜欢|不太喜欢][吃苹果|喝热茶|看书|唱歌|画画|游泳|下雪天|晴天|坐火车]。",
    "{who}说：“[今天的饭真好吃|早点回家|外面冷，多穿一点|我们明天再去吧|这本书很有意思|生日快乐]。”",
]


def weather(rng: random.Random) -> str:
    """A sentence about the weather; the fine day is the most frequent one of its kind."""
    if rng.random() < 0.3:
        return FINE
    return expand(rng, rng.choice(WEATHER), {"plan": rng.choice(PLANS)})


def life(rng: random.Random) -> str:
    """A sentence about daily life."""
    return expand(rng, rng.choice(LIFE), {"who": rng.choice(PEOPLE)})


def sentences(rng: random.Random) -> str:
    """One sentence, or sometimes two of one kind; the fine day stands alone."""
    kind = weather if rng.random() < 0.5 else life
    first = kind(rng)
    second = kind(rng)
    if rng.random() < 0.75 or "今天天气" in first + second:
        return first
    return first + second
